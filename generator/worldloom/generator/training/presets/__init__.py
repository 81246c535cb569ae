"""Settings that come with the package: `train_toy` on a CPU, `train_lyra2_fsdp` at full size."""
