#!/usr/bin/env bash
# Copy what the campaign needs of a flashinfer-trace folder: one definition and its workloads. The
# routing tensors are made on the GPU machine by the stage `setup`: 30 KB travel instead of 30 MB.
#
#   pack_dataset.sh DATASET DEST
set -euo pipefail
dataset=$(realpath "${1:?usage: pack_dataset.sh DATASET DEST}") dest=$(realpath -m "${2:?usage: pack_dataset.sh DATASET DEST}")
name=moe_fp8_block_scale_ds_routing_topk8_ng8_kg4_e32_h7168_i2048
mkdir -p "$dest/definitions/moe" "$dest/workloads/moe"
install -m 644 "$dataset/definitions/moe/$name.json" "$dest/definitions/moe/"
install -m 644 "$dataset/workloads/moe/$name.jsonl" "$dest/workloads/moe/"
du -sh "$dest"
