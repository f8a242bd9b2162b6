/*
 * run_familiar: options that users of other programs know, and what to use here; see run.h. Those
 * that mean the same as one of ours are further names of it, in its own row.
 */
#include "runtime/run/run.h"

const struct cli_familiar run_familiar[] = {
    {"-ngl --n-gpu-layers --gpu-layers --tensor-parallel-size --gpu-memory-utilization",
     "--device cuda computes on a device, within --vram SIZE"},
    {"-cmoe --cpu-moe -ncmoe --n-cpu-moe -ot --override-tensor",
     "experts go where there is room: within --ram SIZE and --vram SIZE; --missed says who "
     "computes "
     "the others"},
    {"-hf -hfr --hf-repo -hff --hf-file -mu --model-url",
     "nothing is downloaded; corm-prep convert makes an archive of a checkpoint's folder"},
    {"--mlock --mmap --no-mmap -dio --direct-io",
     "what is kept in memory follows from --ram SIZE; --reading says how the archive is read"},
    {"-fa --flash-attn", "attention is of one kind, which keeps no table of scores"},
    {"-ctk --cache-type-k -ctv --cache-type-v", "--kv f16, f32 or q8 is the type of the KV cache"},
    {"-cnv --conversation -i --interactive --interactive-first -if",
     "corm-run chat MODEL.corm is a conversation"},
    {"-st --single-turn -no-cnv --no-conversation",
     "-p TEXT continues a text, with --chat it is answered"},
    {"-sys", "--system TEXT is the system message"},
    {"--jinja --no-jinja", "chat templates are always rendered as Jinja's"},
    {"-ub --ubatch-size", "--batch N is the most that is computed at once"},
    {"-np", "--parallel N is how many are answered at once"},
    {"-tb --threads-batch", "--threads N is for prompts, too"},
    {"--numa --cpu-mask --cpu-range --prio", "--threads N is all that is chosen of processors"},
    {"-md --model-draft --draft --draft-max --spec-type", "there is no speculative decoding"},
    {"--rope-scaling --rope-scale --rope-freq-base --rope-freq-scale --yarn-orig-ctx",
     "the archive says how positions are encoded"},
    {"--lora --lora-scaled --adapter", "adapters are merged before a checkpoint is converted"},
    {"--mmproj --image --audio", "models read text only"},
    {"--load-in-4bit --load-in-8bit --dtype --torch-dtype --quantization",
     "corm-prep convert --codec chooses the numbers"},
    {"--no-display-prompt", "the prompt is printed only with --echo"},
    {"--api-key", "others could read it in the list of processes: --api-key-file FILE"},
    {"--no-warmup --warmup --verbose-prompt --log-disable", "there is nothing to turn on or off"},
    {0},
};
