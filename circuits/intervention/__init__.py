"""What a circuit does alone: exact patching, faithfulness, transfer into another checkpoint."""
