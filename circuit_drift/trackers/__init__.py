"""The loggers that people look at, told what a sweep or a training finds; off unless one is named."""
