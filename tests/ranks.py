"""The processes of a group, forked from one that has imported torch, which costs no time."""

import os
import socket
from datetime import timedelta
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

# Not on Windows, where each process imports torch itself.
HAS_FORKSERVER = "forkserver" in get_all_start_methods()

# What ranks import, and DistributedDataParallel there.
PRELOADED = ["torch", "torch._dynamo", "torchvision.ops", "parfocal"]

# Ends a hang, and nothing else.
DEADLINE = timedelta(minutes=10)


def run_ranks(function, count, folder, *arguments):
    """Call `function(rank, *arguments)` in `count` processes of a gloo group; all have to return.

    What one of them raises is raised here, with its traceback, and the others are ended.
    """
    method = "forkserver" if HAS_FORKSERVER else "spawn"
    if HAS_FORKSERVER:
        get_context(method).set_forkserver_preload(PRELOADED)
    store = (Path(folder) / "store").as_uri()
    start_processes(_run, (function, count, store, arguments), nprocs=count, start_method=method)


def _run(rank, function, count, store, arguments):
    torch.set_num_threads(1)
    if HAS_FORKSERVER:  # by the name of this machine it may have no address, or one of elsewhere
        names = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
        os.environ["GLOO_SOCKET_IFNAME"] = names[0]
    dist.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=count, timeout=DEADLINE
    )
    function(rank, *arguments)
    # No process leaves while another still reads from it. The group is left as it is: gloo, taken
    # down on a busy machine, may abort a process that has ended well.
    dist.barrier()
