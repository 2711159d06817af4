"""Lists the tags of an event file that `etrace export RUN --tensorboard DIR` wrote, with TensorBoard's own reader (package tensorboard).

    python tensorboard_tags.py DIR
"""
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "images": 0, "histograms": 0}).Reload()
tags = events.Tags()
for kind in ("scalars", "histograms", "images"):
    for tag in tags[kind]:
        last = getattr(events, kind.capitalize())(tag)[-1]
        value = {"scalars": lambda: f"{last.value:.6g}", "images": lambda: f"{last.width} x {last.height}",
                 "histograms": lambda: f"{last.histogram_value.num:.0f} values"}[kind]()
        print(f"{kind}: {tag}, step {last.step}: {value}")
content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
print(f"{len(start.hparams)} hyper-parameters, one of them learner.method.name = {start.hparams['learner.method.name'].string_value}")
