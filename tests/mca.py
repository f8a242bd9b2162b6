#!/usr/bin/env python3
"""What the loops over a token's weights cost in arithmetic alone, by LLVM's models of processors.

    make mca        or    tests/mca.py BUILD_DIR [CPU...]

Decoding is to be bound by memory, so the loops that read weights have to be faster than that on every processor, also
on those that are not at hand. This reads the compiled loops out of BUILD_DIR's objects, gives each to llvm-mca, which
takes everything to be in cache, and prints bytes of weights a cycle for each processor. A loop's weights are counted by
its multiplications: each meets so many lanes. Times GHz that is GB/s; beside it belongs the rate at which one thread
reads memory (`corm-run bench --kernels`). Loops that ask ahead do the same and ask for each line besides. Models are
no processors: LLVM 16 has Skylake's for Sapphire Rapids, and its Zen 2 multiplies bytes slower than a Zen 3 was seen to.
"""
import re
import shutil
import subprocess
import sys

# object, names of processors that run it
OBJECTS = {
    "dot_avx2": ("znver2", "znver4", "skylake-avx512", "sapphirerapids", "alderlake"),
    "dot_avx512": ("znver4", "skylake-avx512", "sapphirerapids"),
}
# function, what multiplies weights, bytes of a weight with its share of scales
LOOPS = [
    ("dot_f32", r"vfmadd", 4), ("dot_bf16", r"vfmadd", 2), ("dot_f16", r"vfmadd", 2),
    ("qdot_q8", r"vpdpbusd|vpmaddubsw", 34 / 32), ("qdot_q4", r"vpdpbusd|vpmaddubsw", 18 / 32),
    ("qmix_q8", r"vpdpbusd|vpmaddubsw", 34 / 32), ("qmix_q4", r"vpdpbusd|vpmaddubsw", 18 / 32),
    ("axpy_bf16", r"vfmadd", 2),
]
ITERATIONS = 200


def instructions(path, function):
    """[(address, text, where it jumps to or None)] of one function of an object."""
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", "-w", f"--disassemble={function}", path],
        check=True, capture_output=True, text=True).stdout
    out = []
    for line in listing.splitlines():
        found = re.match(r"\s*([0-9a-f]+):\t(.*)$", line)
        if not found:
            continue
        text = re.sub(r"\s*[<#].*$", "", found[2]).strip()
        jump = re.match(r"j\w+\s+([0-9a-f]+)$", text)
        out.append((int(found[1], 16), text, int(jump[1], 16) if jump else None))
    return out


def innermost(code):
    """Loops in which nothing jumps but the end, as slices of `code`: what whole vectors of whole rows go through."""
    at = {address: i for i, (address, _, _) in enumerate(code)}
    loops = sorted({(at[to], i) for i, (address, _, to) in enumerate(code) if to in at and to <= address})
    return [code[a:b + 1] for a, b in loops if not any(to for _, _, to in code[a:b])]


def cycles(mca, cpu, loop):
    text = "top:\n" + "\n".join(re.sub(r"^(j\w+)\s.*", r"\1 top", t) for _, t, _ in loop) + "\n"
    ran = subprocess.run([mca, f"-mcpu={cpu}", f"-iterations={ITERATIONS}", "-instruction-info=false",
                          "-resource-pressure=false"], input=text, capture_output=True, text=True)
    found = re.search(r"^Total Cycles:\s+(\d+)", ran.stdout, re.M)
    if ran.returncode != 0 or not found:
        sys.exit(f"mca.py: {mca} -mcpu={cpu} refuses a loop: {ran.stderr.strip().splitlines()[:1]}")
    return int(found[1]) / ITERATIONS


def main():
    mca = shutil.which("llvm-mca")
    if not mca or len(sys.argv) < 2:
        sys.exit("mca.py: wants llvm-mca (of the Debian package llvm) and a folder of builds, such as build/release")
    for name, cpus in OBJECTS.items():
        cpus = [cpu for cpu in cpus if cpu in sys.argv[2:]] or cpus
        print(f"\n{name}: bytes of weights a cycle\n")
        print("| loop | weights a turn | " + " | ".join(cpus) + " |\n|" + "---|" * (len(cpus) + 2))
        for function, multiply, size in LOOPS:
            for loop in innermost(instructions(f"{sys.argv[1]}/kernels/cpu/{name}.o", function)):
                weights = 0
                for _, text, _ in loop:
                    if re.match(multiply, text):
                        lanes = 16 if "%zmm" in text else 8 if "%ymm" in text else 0
                        weights += lanes * (1 if size >= 2 else 4)
                # What is left over at a row's end has a single vector.
                if weights < 4 * (32 if "avx512" in name else 16):
                    continue
                rates = [weights * size / cycles(mca, cpu, loop) for cpu in cpus]
                print(f"| {function} | {weights} | " + " | ".join(f"{rate:.1f}" for rate in rates) + " |")


if __name__ == "__main__":
    main()
