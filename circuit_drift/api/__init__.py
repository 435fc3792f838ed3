"""The face: a run and a pair with everything that can be done with them. Imports all rooms below; none imports it."""
