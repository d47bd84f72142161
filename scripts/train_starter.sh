#!/bin/sh
# Data in, starter weights out: how verse3d/starter was made.
#
#   scripts/train_starter.sh DATA WORK
#
# DATA holds four VerSe'19 scans with their masks (sub-verse005 to 008) and two scans with automatic masks (chest_ct,
# example_ct); docs/model-card.md says where each comes from. WORK gets the index, the run and the scores. On an NVIDIA
# H200 it takes two minutes, on two CPU cores a day: take `--config unet3d-cpu` and half an hour there.
#
# Seeds: the default config fixes runtime.seed to 0. A GPU adds up in another order every time, so the same commands give
# weights of the same quality, not the same bits; runtime.deterministic=true gives the same bits, more slowly.
set -eu
data=$1 work=$2
verse3d=${VERSE3D:-verse3d} python=${PYTHON:-python3}
mkdir -p "$work"

# What went in: every file with its hash, so that somebody else can see whether theirs are the same.
find "$data" -name '*.nii.gz' -type f -exec sha256sum {} + | sort -k 2 > "$work/inputs.sha256"

"$verse3d" index "$data" -o "$work/cases.jsonl" \
    --assign sub-verse005=train --assign sub-verse007=train --assign chest_ct=train --assign example_ct=train \
    --assign sub-verse006=validation --assign sub-verse008=test
"$verse3d" train --mode 3d --config unet3d --data "$work/cases.jsonl" --out "$work/run" --max-minutes 1.5 --overwrite

# Half precision, with the names of the cases and without their paths. Scored is what is shipped, not what was trained.
"$python" "$(dirname "$0")/pack_starter.py" "$work/run" "$work/starter"
"$verse3d" predict "$work/cases.jsonl" --model "$work/starter/best.pt" --out "$work/masks" --overwrite
"$verse3d" evaluate --pred "$work/masks" --truth "$work/cases.jsonl" --out "$work/scores.json" --pictures "$work/pictures"
sha256sum "$work/run/best.pt" "$work/starter/best.pt" > "$work/outputs.sha256"
echo "if the scores are what you want: cp $work/starter/* verse3d/starter/, and write its hash and scores into docs/model-card.md"
