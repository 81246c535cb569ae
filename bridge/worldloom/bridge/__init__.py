"""The wire and the journal: worlds over gRPC, jobs that survive what breaks.

Client half (needs grpc): client, worldcache, transfer, messages, status.
Server half: journal, blobs, jobs, workers, worker_main, service, server.
The invariant: a journal row never names a blob that is not whole on disk.
"""
