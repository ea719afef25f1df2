"""What a training process sees of its machine."""

import time

import psutil
import torch

MEGABYTE = 1e6


def machine() -> dict[str, float]:
    """Load of this machine, by MLflow's names of system metrics, and memory and CPU time of this process.

    The processor's share is that since the last call.
    """
    memory = psutil.virtual_memory()
    values = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / MEGABYTE,
        "system_memory_usage_percentage": memory.percent,
        "process_memory_megabytes": psutil.Process().memory_info().rss / MEGABYTE,
        "process_cpu_seconds": time.process_time(),
    }
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        values["gpu_0_memory_usage_megabytes"] = (total - free) / MEGABYTE
        values["gpu_0_memory_usage_percentage"] = 100 * (1 - free / total)
        values["process_gpu_peak_megabytes"] = torch.cuda.max_memory_allocated() / MEGABYTE
    return values
