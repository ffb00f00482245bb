"""Writes test/fixtures/tensorboard.tfevents with the tensorboard package's own protobufs and record writer."""
import argparse

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()


def scalar(tag, value):
    return Summary(value=[Summary.Value(tag=tag, simple_value=value)])


with open("test/fixtures/tensorboard.tfevents", "wb") as file:
    writer = RecordWriter(file)
    writer.write(Event(wall_time=1.5, file_version="brain.Event:2").SerializeToString())
    writer.write(Event(wall_time=1.5, step=7, summary=scalar("loss", 0.5)).SerializeToString())
    writer.write(Event(wall_time=2.5, step=8, summary=scalar("loss", 0.25)).SerializeToString())
