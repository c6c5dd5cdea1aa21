"""
Where a device's time goes in an update: its kernels, by the time that they take together.

Usage::

    python benchmarks/kernels.py --row update-32 --batch-size 64      # Pong's CNN
    python benchmarks/kernels.py --row update-dqn --batch-size 64 --precision highest
"""

import argparse
from typing import Any

import gpu
import torch as th
from provenance import describe, provenance
from torch.profiler import ProfilerActivity, profile

#: Updates that are looked at.
N_UPDATES = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", choices=("update-32", *gpu.SMALL), default="update-32", help="networks, as of gpu.py")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--held", type=int, default=50_000, help="transitions in the memory")
    parser.add_argument("--precision", choices=("highest", "high"), default="high", help="of products: high is TF32")
    parser.add_argument("--top", type=int, default=20, help="kernels to print")
    parser.add_argument("--device", default="cuda", help="of PyTorch")
    args = parser.parse_args()
    if args.device.startswith("cuda") and not th.cuda.is_available():
        print("not measured: no CUDA device")
        return
    th.set_float32_matmul_precision(args.precision)
    measure = gpu.ours(args.row, N_UPDATES, args.batch_size, args.held, args.device)
    measure()
    rates = [rate for rate in (measure() for _ in range(20)) if isinstance(rate, float)]
    activity = ProfilerActivity.CUDA if args.device.startswith("cuda") else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiled:
        measure()

    def microseconds(event: Any) -> float:
        on_device = activity is ProfilerActivity.CUDA
        return float(event.self_device_time_total if on_device else event.self_cpu_time_total) / N_UPDATES

    events = sorted(profiled.key_averages(), key=microseconds, reverse=True)
    total, count = sum(map(microseconds, events)), sum(event.count for event in events) / N_UPDATES
    print(f"{args.row}, batch {args.batch_size}, precision {args.precision}: {max(rates):.0f} updates/s")
    print(f"{count:.0f} kernels an update, {total:.0f} us together\n\n| us | calls | kernel |\n| --- | --- | --- |")
    for event in events[: args.top]:
        print(f"| {microseconds(event):.1f} | {event.count / N_UPDATES:.1f} | `{event.key[:100]}` |")
    print(f"\n{describe(provenance())}")


if __name__ == "__main__":
    main()
