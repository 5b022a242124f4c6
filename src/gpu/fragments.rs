use super::Fragment;

macro_rules! fragments {
    ($($name:literal)+) => {
        &[$(Fragment {
            name: $name,
            text: include_str!(concat!("../../shaders/", $name, ".wgsl")),
        }),+]
    };
}

/// Every fragment under `shaders/`.
#[rustfmt::skip]
pub const FRAGMENTS: &[Fragment] = fragments![
    "access/cache_u32" "access/cache_u64"
    "access/codes16_texture" "access/codes16_u32" "access/codes16_u64" "access/codes32_texture"
    "access/codes32_u32" "access/codes32_u64" "access/codes8_u32" "access/codes8_u64"
    "access/made_u32x2" "access/made_u32x4" "access/made_u64" "access/made_u64x2"
    "access/side_u32" "access/side_u64" "access/texel" "access/weights_u32"
    "access/weights_u32x4" "access/weights_u64" "access/words_texture" "access/words_u32"
    "access/x_f16" "access/x_f32" "access/x_f32x4" "access/x_f32x4_u64" "access/x_int8"
    "access/x_int8_u64" "access/y_f16" "access/y_f32" "access/y_old_f16" "access/y_old_f32"
    "access/y_one_f16" "access/y_one_f32"
    "activations/code" "activations/codes" "activations/permute" "activations/quantize"
    "activations/ranges" "activations/reset" "activations/row" "activations/sums"
    "attention/cache_f16" "attention/cache_f32" "attention/cache_int4" "attention/cache_int8"
    "attention/combine" "attention/lanes" "attention/octet" "attention/positions" "attention/query"
    "attention/workgroup"
    "columns/block" "columns/enter" "columns/params" "columns/pick" "columns/rows1" "columns/rows4"
    "columns/select" "columns/selection"
    "decode/dense" "decode/f16" "decode/f16_24" "decode/f32" "decode/f32_24" "decode/fp8"
    "decode/general" "decode/general_24" "decode/general_block" "decode/int16" "decode/int16_24"
    "decode/int4" "decode/int4_24" "decode/int4_24_pair" "decode/int8" "decode/int8_24"
    "decode/int8_offset" "decode/planes2" "decode/planes4" "decode/raws" "decode/scatter" "decode/table"
    "decode/two_four" "decode/two_four_load"
    "dequantize/code_bits" "dequantize/codes_planes" "dequantize/codes_whole"
    "dequantize/number_codebook" "dequantize/number_fp8" "dequantize/number_integer"
    "dequantize/number_table" "dequantize/order_permuted" "dequantize/order_same"
    "dequantize/value_float" "dequantize/value_scaled"
    "epilogue/accumulate" "epilogue/gated" "epilogue/store"
    "experts/choose" "experts/combine" "experts/sort"
    "factor/block" "factor/diagonal" "factor/fill" "factor/matrix" "factor/scale"
    "fake/apply" "fake/backward" "fake/code" "fake/dy_f16" "fake/dy_f32" "fake/dy_f32x4"
    "fake/dynamic" "fake/finish" "fake/forward" "fake/gradient" "fake/groups" "fake/range"
    "fake/ranges" "fake/scale" "fake/sums" "fake/tree"
    "function/gelu" "function/gelu_tanh" "function/identity" "function/relu" "function/silu"
    "hadamard/rows"
    "gate/codes" "gate/floats" "gate/row"
    "gram/sums"
    "integer/bytes" "integer/counted" "integer/dot_float" "integer/dot_packed" "integer/finish"
    "integer/finish_int8" "integer/int4" "integer/int4_24" "integer/int8" "integer/int8_24"
    "integer/nibbles" "integer/part_direct" "integer/part_shared" "integer/planes" "integer/slices"
    "integer/scaled" "integer/sums_each" "integer/sums_whole" "integer/two_four" "integer/x_side"
    "lib/bias" "lib/bytes" "lib/dispatch" "lib/entry_plain" "lib/entry_subgroup" "lib/fp8"
    "lib/hadamard" "lib/half" "lib/half_pair"
    "lib/half_pair_native" "lib/lane" "lib/matmul" "lib/matrix16" "lib/matrix8" "lib/no_bias" "lib/panel"
    "lib/panel_codes" "lib/part_direct" "lib/part_shared" "lib/put_floats" "lib/quad" "lib/quad_step" "lib/quads"
    "lib/reciprocal" "lib/reduce_subgroup" "lib/reduce_tree" "lib/row_sum" "lib/run" "lib/softfloat" "lib/sums_pairs"
    "lib/sums_steps" "lib/tile" "lib/tile_experts"
    "linalg/apart" "linalg/dense" "linalg/lanes" "linalg/left_apart" "linalg/right_apart"
    "linalg/single" "linalg/tile" "linalg/wide" "linalg/wide_u64" "linalg/within"
    "limits/copy" "limits/dot" "limits/fma" "limits/part_constant" "limits/read"
    "limits/read_texture" "limits/x_constant"
    "norm/alone" "norm/codes" "norm/floats" "norm/residual" "norm/row"
    "observe/histogram" "observe/ranges" "observe/reset" "observe/tile"
    "probe/halves"
    "quantize/block" "quantize/block_codes" "quantize/block_ranges" "quantize/codes"
    "quantize/dequantize" "quantize/make" "quantize/ranges" "quantize/record" "quantize/repack"
    "quantize/reset" "quantize/scale_e4m3" "quantize/scale_e8m0" "quantize/scale_float"
    "quantize/scale_int8" "quantize/scales" "quantize/small_codes"
    "rotary/heads"
    "sample/greedy" "sample/keys" "sample/philox" "sample/random"
    "scale/aligned" "scale/block" "scale/field_byte" "scale/field_float" "scale/general"
    "scale/none" "scale/one_run" "scale/side"
    "schedule/coop" "schedule/gemv" "schedule/int_gemv" "schedule/int_rows" "schedule/int_tiled"
    "schedule/rows" "schedule/rows_m1" "schedule/tiled"
    "softmax/row"
    "sparse/metadata" "sparse/place" "sparse/prune" "sparse/rank"
    "table/constants" "table/e2m1" "table/iq4nl" "table/own" "table/shuffled"
];

/// Returns the fragment of a name. Names are literals of this crate, and a test looks up every name
/// that a kernel can choose.
///
/// # Panics
/// If there is none.
pub(crate) fn fragment(name: &str) -> Fragment {
    match FRAGMENTS.iter().find(|f| f.name == name) {
        Some(fragment) => *fragment,
        None => panic!("no shader fragment {name}"),
    }
}
