//! Prints what each rule that makes weights loses on a matrix of normally distributed numbers: the
//! bits of a weight, and ‖W − Ŵ‖ ÷ ‖W‖. docs/formats.md has this table.

use lowbit::compress::{Scheme, dequantize, quantize_scheme, relative_error};

const SCHEMES: [&str; 28] = [
    "int8-channel",
    "int8-g32-f16s",
    "q8_0",
    "e4m3-channel",
    "e5m2-channel",
    "int6-g64-f16s",
    "q6_k",
    "int5-g64-f16s",
    "int5-g64-asym-f16s",
    "q5_0",
    "q5_1",
    "q5_k",
    "int4-g64-f16s",
    "int4-g64-asym4-f16s",
    "int4-g64-min-f16s",
    "q4_0",
    "q4_1",
    "q4_k",
    "iq4_nl",
    "nf4",
    "fp4",
    "mxfp4",
    "nvfp4",
    "int3-g64-f16s",
    "int3-g64-min-f16s",
    "int2-g64-f16s",
    "int2-g64-asym4-f16s",
    "int2-g64-min-f16s",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (n, k) = (256, 4096);
    let mut random = 1u64;
    let mut uniform = || {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((random >> 40) as f32 + 0.5) / (1 << 24) as f32
    };
    let w: Vec<f32> = (0..n * k)
        .map(|_| (-2.0 * uniform().ln()).sqrt() * (std::f32::consts::TAU * uniform()).cos())
        .collect();
    println!("| scheme | bits a weight | relative error |");
    println!("|---|---|---|");
    for name in SCHEMES {
        let scheme: Scheme = name.parse()?;
        let packed = quantize_scheme(&w, n, k, &scheme)?;
        let bits = packed.geometry().sizes().bits_per_weight();
        let error = relative_error(&w, &dequantize(&packed));
        println!("| `{name}` | {bits:.3} | {error:.4} |");
    }
    Ok(())
}
