"""Protocol version 1: `bridge.proto` and the code generated from it with grpcio-tools 1.62.3."""
