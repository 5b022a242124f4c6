use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;

/// A shader's listing: LLVM's disassembly, or RADV's own print where LLVM does not know the
/// family.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    instructions: Vec<Instruction>,
    /// Loops: the header's place and that of the last branch back to it.
    loops: Vec<RangeInclusive<usize>>,
}

#[derive(Clone, Debug)]
struct Instruction {
    opcode: String,
    /// The operation that is issued with it (`v_dual_…`).
    second: Option<String>,
    /// The binding whose descriptor it loads through.
    binding: Option<u32>,
}

/// Loads by bytes a lane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loads(pub BTreeMap<u32, u64>);

impl Loads {
    /// Returns the number of loads.
    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// Returns the number of bytes that all loads together return.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|(&width, &count)| u64::from(width) * count).sum()
    }
}

/// Instructions of a stretch of code.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Vector operations as they are issued: two at once count as one.
    pub valu: u64,
    /// Instructions that issue at a quarter of the rate: 32-bit products, reciprocals.
    pub quarter_rate: u64,
    /// Scalar operations.
    pub salu: u64,
    /// Vector loads and stores.
    pub vmem: u64,
    /// Scalar loads.
    pub smem: u64,
    /// Accesses to workgroup memory.
    pub lds: u64,
    /// Bytes that a lane loads from workgroup memory.
    #[serde(default)]
    pub lds_bytes: u64,
    /// Vector loads from memory.
    pub loads: Loads,
    /// Loads of codes, vector or scalar.
    pub code_loads: Loads,
    /// Float products, with or without an addition.
    pub products: u64,
    /// Conversions.
    pub convert: u64,
    /// `v_dot4`.
    pub dot4: u64,
    /// `v_wmma`.
    pub wmma: u64,
}

/// The innermost loop that loads codes; of several, the one that loads most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MainLoop {
    /// One trip. Both sides of a branch count, and an inner loop once.
    pub counts: Counts,
    /// Loops within it. Those of constant length the driver has unrolled.
    pub inner_loops: usize,
    /// One trip of the loop within it, if there is exactly one.
    #[serde(default)]
    pub inner: Option<Counts>,
    /// Branches that some lanes take and others do not.
    pub branches: usize,
}

impl Listing {
    /// Reads a listing. A `s_load` takes descriptors from the only descriptor set, 16 bytes a
    /// binding: so the registers that a load goes through tell its binding.
    pub fn parse(text: &str) -> Self {
        let mut labels = HashMap::new();
        let mut instructions = Vec::new();
        // By the header's label: an empty block stands where the next one does.
        let mut loops: BTreeMap<&str, RangeInclusive<usize>> = BTreeMap::new();
        let mut descriptors: HashMap<u32, u32> = HashMap::new();
        let mut second_word = false;
        for line in text.lines() {
            let (line, word) = line.split_once(';').unwrap_or((line, ""));
            let line = line.trim().trim_matches('\0');
            // LLVM reads on from the second word of what it does not know.
            if std::mem::take(&mut second_word) {
                continue;
            }
            if line == "(invalid instruction)" {
                let (opcode, words) = unknown(word.trim()).unzip();
                second_word = words == Some(2);
                instructions.extend(opcode.map(|opcode: &str| Instruction {
                    opcode: opcode.into(),
                    second: None,
                    binding: None,
                }));
                continue;
            }
            if line.starts_with("BB") {
                labels.insert(line.trim_end_matches(':'), instructions.len());
                continue;
            }
            // `v1: %0:v[4] = v_mov_b32 0` in RADV's own print; fields such as `imm:4` follow.
            let (defined, used) = line.split_once(" = ").unwrap_or(("", line));
            let Some(opcode) = used.split_whitespace().next().filter(|o| is_opcode(o)) else {
                continue;
            };
            if let Some(target) = branch_target(opcode, used)
                && let Some(&header) = labels.get(target)
            {
                loops.insert(target, header..=instructions.len());
            }
            let mut registers = scalar_ranges(defined).chain(scalar_ranges(used));
            let mut binding = None;
            if opcode.starts_with("s_load_") {
                let wide = load_width(opcode).is_some_and(|width| width >= 16);
                if let Some((first, last)) = registers.next().filter(|_| wide) {
                    let offset = used.rsplit(',').next().and_then(number).unwrap_or(0);
                    for register in (first..=last).step_by(4) {
                        descriptors.insert(register, (offset + (register - first) * 4) / 16);
                    }
                }
            } else if opcode.starts_with("buffer_") || opcode.starts_with("s_buffer_load") {
                // The last range of four is the descriptor's; a scalar load's first is its result.
                binding = registers
                    .filter(|(first, last)| last - first == 3)
                    .last()
                    .and_then(|(first, _)| descriptors.get(&first).copied());
            }
            let second = used.split_whitespace().skip(1).find(|word| word.starts_with("v_dual_"));
            let (opcode, second) = (opcode.to_string(), second.map(str::to_string));
            instructions.push(Instruction { opcode, second, binding });
        }
        Self { instructions, loops: loops.into_values().collect() }
    }

    /// Returns all instructions.
    pub fn counts(&self, codes: Option<u32>) -> Counts {
        count(&self.instructions, codes)
    }

    /// Returns the innermost loop that loads from binding `codes`.
    pub fn main_loop(&self, codes: Option<u32>) -> Option<MainLoop> {
        let bytes = |range: &RangeInclusive<usize>| {
            count(&self.instructions[range.clone()], codes).code_loads.bytes()
        };
        let inside = |a: &RangeInclusive<usize>, b: &RangeInclusive<usize>| {
            a != b && b.contains(a.start()) && b.contains(a.end())
        };
        let loading: Vec<_> = self.loops.iter().filter(|range| bytes(range) > 0).collect();
        let innermost =
            loading.iter().filter(|range| !loading.iter().any(|other| inside(other, range)));
        let main = innermost.max_by_key(|range| bytes(range))?;
        let body = &self.instructions[(*main).clone()];
        let within: Vec<_> = self.loops.iter().filter(|range| inside(range, main)).collect();
        let inner = match within[..] {
            [one] => Some(count(&self.instructions[one.clone()], codes)),
            _ => None,
        };
        Some(MainLoop {
            inner,
            counts: count(body, codes),
            branches: body.iter().filter(|i| i.opcode.starts_with("s_cbranch_exec")).count(),
            inner_loops: within.len(),
        })
    }
}

/// Returns what LLVM 15 cannot name, by the first word of its encoding: vector operations of one
/// operand (conversions from 16 bits) in one word or in two, and scalar loads, of two words.
fn unknown(word: &str) -> Option<(&'static str, u32)> {
    let word = u32::from_str_radix(word, 16).ok()?;
    match word >> 25 {
        0x3f => Some(("v_unknown", 1)),
        0x6a | 0x6b => Some(("v_unknown", 2)),
        0x7a | 0x7b => Some(("s_unknown", 2)),
        _ => None,
    }
}

fn is_opcode(word: &str) -> bool {
    ["v_", "s_", "buffer_", "global_", "flat_", "scratch_", "ds_"]
        .iter()
        .any(|prefix| word.starts_with(prefix))
}

fn branch_target<'a>(opcode: &str, line: &'a str) -> Option<&'a str> {
    let target = line.split_whitespace().last()?;
    let branch = opcode.starts_with("s_branch") || opcode.starts_with("s_cbranch");
    branch.then(|| target.trim_start_matches("block:"))
}

/// `s[4:7]`, or `s[4-7]` in RADV's print.
fn scalar_ranges(text: &str) -> impl Iterator<Item = (u32, u32)> + '_ {
    text.match_indices("s[").filter_map(|(at, found)| {
        let inner = text[at + found.len()..].split(']').next()?;
        let (first, last) = inner.split_once([':', '-'])?;
        Some((first.parse().ok()?, last.parse().ok()?))
    })
}

fn number(text: &str) -> Option<u32> {
    let text = text.trim();
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Returns the number of bytes that a load returns, from its opcode.
fn load_width(opcode: &str) -> Option<u32> {
    let (_, kind) = opcode.split_once("_load_")?;
    Some(match kind {
        "b32" | "dword" => 4,
        "b64" | "dwordx2" => 8,
        "b96" | "dwordx3" => 12,
        "b128" | "dwordx4" => 16,
        "b256" | "dwordx8" => 32,
        "b512" | "dwordx16" => 64,
        kind if kind.contains("16") || kind.contains("short") => 2,
        _ => 1,
    })
}

/// Returns the number of bytes that a load from workgroup memory returns; two addresses (`2addr`,
/// `read2`) return twice as many.
fn lds_load_bytes(opcode: &str) -> u64 {
    let kind = opcode.strip_prefix("ds_load").or_else(|| opcode.strip_prefix("ds_read"));
    let Some(kind) = kind else { return 0 };
    let twice = if kind.starts_with('2') || kind.starts_with("_2addr") { 2 } else { 1 };
    let width = kind.rsplit('_').find_map(|part| part.strip_prefix(['b', 'u', 'i'])?.parse().ok());
    twice * width.unwrap_or(32u64) / 8
}

const QUARTER_RATE: [&str; 9] = [
    "v_mul_lo_u32",
    "v_mul_hi_u32",
    "v_mul_hi_i32",
    "v_rcp_",
    "v_rsq_",
    "v_sqrt_",
    "v_exp_",
    "v_log_",
    "v_mad_u64",
];
const PRODUCTS: [&str; 7] =
    ["v_fma", "v_mac", "v_mad_f", "v_mul_f", "v_pk_fma", "v_dual_fma", "v_dual_mul_f"];
const WAITS: [&str; 9] = [
    "s_wait",
    "s_delay",
    "s_clause",
    "s_nop",
    "s_barrier",
    "s_branch",
    "s_cbranch",
    "s_endpgm",
    "s_inst_prefetch",
];

fn count(instructions: &[Instruction], codes: Option<u32>) -> Counts {
    let mut counts = Counts::default();
    for instruction in instructions {
        let opcode = instruction.opcode.as_str();
        let is = |prefixes: &[&str]| prefixes.iter().any(|prefix| opcode.starts_with(prefix));
        if opcode.starts_with("v_") {
            counts.valu += 1;
            counts.quarter_rate += u64::from(is(&QUARTER_RATE));
            let second = instruction.second.as_deref().unwrap_or_default();
            let second = PRODUCTS.iter().any(|prefix| second.starts_with(prefix));
            counts.products += u64::from(is(&PRODUCTS)) + u64::from(second);
            counts.convert += u64::from(is(&["v_cvt"]));
            counts.dot4 += u64::from(is(&["v_dot4"]));
            counts.wmma += u64::from(is(&["v_wmma"]));
        } else if opcode.starts_with("ds_") {
            counts.lds += 1;
            counts.lds_bytes += lds_load_bytes(opcode);
        } else if is(&["s_load", "s_buffer_load"]) {
            counts.smem += 1;
        } else if !opcode.starts_with("s_") {
            counts.vmem += 1;
        } else if !is(&WAITS) {
            counts.salu += 1;
        }
        if let Some(width) = load_width(opcode) {
            if !opcode.starts_with("s_") && !opcode.starts_with("ds_") {
                *counts.loads.0.entry(width).or_default() += 1;
            }
            if codes.is_some() && instruction.binding == codes {
                *counts.code_loads.0.entry(width).or_default() += 1;
            }
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLVM: &str = "
BB0:
	s_load_b128 s[8:11], s[2:3], 0x40                           ; f4080601
	s_load_b256 s[16:23], s[2:3], 0x30
	buffer_load_b32 v0, v1, s[8:11], 0 offen
BB1:
	s_cbranch_scc1 BB3                                          ; bfa2
BB2:
	buffer_load_b128 v[28:31], v2, s[20:23], 0 offen
	buffer_load_b64 v[32:33], v2, s[16:19], 0 offen offset:16
	v_fmac_f32_e32 v1, v2, v3
	v_mul_lo_u32 v1, v2, v3
	v_dot4_i32_iu8 v1, v2, v3, v1
	v_dual_fmac_f32 v1, v2, v3 :: v_dual_mul_f32 v4, v5, v6
	s_waitcnt vmcnt(0)
	s_add_u32 s1, s1, 1
	s_branch BB1
BB3:
	s_endpgm
";
    const RADV: &str = "
BB0
/* logical preds: / linear preds: / kind: uniform, top-level, */
	 s4: %283:s[24-27] = s_load_dwordx4 %16:s[2-3], 0x40
BB2
	 v4: %290:v[60-63] = buffer_load_dwordx4 %283:s[24-27], %289:v[65], 0 offen storage:buffer
	s_wait_loadcnt imm:14
	 v1: %300:v[1],  s2: %1:vcc = v_add_co_u32 %2:v[1], %3:v[2]
	 s4: %9:s[4-7] = s_buffer_load_dwordx4 %283:s[24-27], 16
	s_branch block:BB2
";

    #[test]
    fn loads_are_told_apart_by_binding() {
        let listing = Listing::parse(LLVM);
        let all = listing.counts(Some(4));
        assert_eq!(all.code_loads.0, BTreeMap::from([(4, 1), (16, 1)]));
        let main = listing.main_loop(Some(4)).unwrap();
        assert_eq!(main.counts.code_loads.0, BTreeMap::from([(16, 1)]));
        assert_eq!(main.counts.loads.0, BTreeMap::from([(8, 1), (16, 1)]));
        let c = &main.counts;
        assert_eq!(
            (c.valu, c.products, c.quarter_rate, c.dot4, c.salu, c.vmem),
            (4, 3, 1, 1, 1, 2)
        );
        assert_eq!(main.inner_loops, 0);
        assert_eq!(listing.main_loop(Some(5)), None);
        assert_eq!(listing.main_loop(Some(3)).unwrap().counts.code_loads.bytes(), 8);
    }

    #[test]
    fn unnamed_instructions_count() {
        let text = "BB0:
(invalid instruction)            ; 7ede3921
(invalid instruction)            ; f4281a04
	v_ldexp_f16_e32 v0, s0, v0      ; 76000000
	v_nop                           ; 7e000000
(invalid instruction)            ; d59c009c
(invalid instruction)            ; 00000128
";
        let counts = Listing::parse(text).counts(None);
        assert_eq!((counts.valu, counts.salu), (3, 1));
    }

    #[test]
    fn loads_from_workgroup_memory() {
        let widths = [
            ("ds_load_b128", 16),
            ("ds_load_2addr_b64", 16),
            ("ds_load_2addr_stride64_b32", 8),
            ("ds_read2st64_b32", 8),
            ("ds_read_b32", 4),
            ("ds_load_u16_d16", 2),
            ("ds_read_i8", 1),
            ("ds_store_b128", 0),
        ];
        for (opcode, bytes) in widths {
            assert_eq!(lds_load_bytes(opcode), bytes, "{opcode}");
        }
    }

    #[test]
    fn radvs_own_print() {
        let main = Listing::parse(RADV).main_loop(Some(4)).unwrap();
        assert_eq!(main.counts.code_loads.0, BTreeMap::from([(16, 2)]));
        assert_eq!((main.counts.valu, main.counts.smem, main.counts.salu), (1, 1, 0));
    }

    /// The loop around is not the main one.
    #[test]
    fn innermost() {
        let inner = "BB1:\n buffer_load_b32 v0, v1, s[8:11], 0 offen\n s_cbranch_scc1 BB1\n";
        let text = format!("s_load_b128 s[8:11], s[2:3], 0x40\nBB0:\n v_nop\n{inner} s_branch BB0");
        let main = Listing::parse(&text).main_loop(Some(4)).unwrap();
        assert_eq!((main.counts.valu, main.inner_loops), (0, 0));
        // A loop that loads no codes is counted once with the one around it.
        let text = text.replace("BB0:\n", "BB0:\nBB7:\n v_nop\n s_cbranch_scc0 BB7\n");
        let text = text.replace("BB1:\n", "").replace("BB1", "BB0");
        let main = Listing::parse(&text).main_loop(Some(4)).unwrap();
        assert_eq!((main.counts.valu, main.inner_loops), (2, 1));
        assert_eq!(main.inner.map(|inner| inner.valu), Some(1));
    }
}
