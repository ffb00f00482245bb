/**
 * Names of a ResNet's weights elsewhere and here. Here they are those of the authors' code (`bn1.bn_list.1.weight`,
 * `layer2.0.downsample.conv.weight`); torchvision's, timm's and MoCo's single-branch ResNets call the shortcut
 * `downsample.0` and `downsample.1`, a widely copied CIFAR ResNet (and lightly's, and RoCL's) `shortcut.0`, `shortcut.1` and
 * `linear`. PreAct-ResNets elsewhere call the final batch norm `bn`. A WideResNet's names are those of TRADES and RobustBench,
 * here too.
 */

import type { Architecture } from "../../../graphs/nn/encoder.ts";

/** A tensor's name here, of its name within the network. */
export const ourName = (name: string): string =>
  name
    .replace(/^(layer\d+\.\d+)\.(?:downsample|shortcut)\.0\./, "$1.downsample.conv.")
    .replace(/^(layer\d+\.\d+)\.(?:downsample|shortcut)\.1\./, "$1.downsample.bn.")
    .replace(/\.bns\.(\d+)\./, ".bn_list.$1.")
    .replace(/^linear\./, "fc.")
    .replace(/^bn\./, "bn1.");

/** A tensor's name where an architecture is usual: in torchvision's ResNets, in RobustBench's others. */
export const usualName = (name: string, arch: Architecture = "resnet"): string =>
  arch === "resnet"
    ? name.replace(".downsample.conv.", ".downsample.0.").replace(".downsample.bn.", ".downsample.1.")
    : arch === "wide-resnet"
      ? name
      : name
          .replace(/^bn1\./, "bn.")
          .replace(/^fc\./, "linear.")
          .replace(".downsample.conv.", ".shortcut.0.");

/** Whether a tensor is of the encoder itself: no rule leaves such a one out. */
export const isOfEncoder = (ours: string): boolean => /^(conv1|bn1|layer\d+|block\d+)\./.test(ours);

/** Tensors that the authors' code carries and no network reads. */
export const isUnusedHead = (ours: string): boolean => /^head_(ce|pred)\./.test(ours);

/** Words for a network whose weights follow another's, in a prefix, a name or the key of a dictionary. */
const followers = "momentum|target|teacher|ema|swa|averaged?|avg|offline";

/** Whether a name says that its tensor follows another's by momentum. */
export const isCopyName = (name: string): boolean => new RegExp(`(^|[._])(${followers})([._]|$)`, "i").test(name);

/** The same of a prefix, where MoCo's and others' single letters and pairs of words count too. */
export const isCopyPrefix = (prefix: string): boolean =>
  isCopyName(prefix) || /(^|[._])(k|key|m|slow)([._]|$)/i.test(prefix);
