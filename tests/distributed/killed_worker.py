"""A worker whose rank 1 dies by SIGKILL in the middle of writing its second checkpoint shard."""

import os
import signal
import sys
from pathlib import Path

from train.distributed.zero import ZeroEngine
from train.run import main

save_shards = ZeroEngine.save_shards
saved: list[Path] = []


def save_or_die(self: ZeroEngine, folder: Path) -> None:
    saved.append(folder)
    if len(saved) == 2 and os.environ["RANK"] == "1":
        folder.mkdir(parents=True, exist_ok=True)
        shard = folder / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
        shard.write_bytes(b"half a file")
        os.kill(os.getpid(), signal.SIGKILL)
    save_shards(self, folder)


ZeroEngine.save_shards = save_or_die  # type: ignore[method-assign]
sys.exit(main())
