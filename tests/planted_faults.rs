//! Proves that the conformance runner can fail. Each fault of a list is planted in a composed
//! shader. A case with K = 4096 detects it, and the same case passes without it.

use lowbit::compress::calibrate::Axis;
use lowbit::conformance::{Case, FakeScales, Op, Quantized, Status, Values, run};
use lowbit::format::{ActivationFormat, WeightFormat};
use lowbit::gpu::KernelDesc;
use lowbit::host::Host;
use lowbit::ops::matmul::{KernelChoice, MatmulSpec, Schedule};
use lowbit::ops::{
    Activations, DequantizeSpec, FakeQuantSpec, FloatType, GramSpec, ObserveSpec, Output,
    PermuteColumnsSpec, QuantizeActivationsSpec,
};
use pollster::block_on;

struct Fault {
    name: &'static str,
    format: &'static str,
    /// Text of the composed shader and its replacement.
    replace: (&'static str, &'static str),
}

const FAULTS: [Fault; 14] = [
    Fault {
        name: "one wrong nibble in the last group",
        format: "int4-g64-asym",
        replace: (
            "return Raw(load16(block_at(row, b)));",
            "var word = load16(block_at(row, b));
             if (row.codes % PANEL == 3u && b == p.blocks - 1u) { word.w ^= 0x10000000u; }
             return Raw(word);",
        ),
    },
    Fault {
        name: "f16 accumulation",
        format: "int8-g64",
        replace: (
            "sums += part * scales4(r0, r1, r2, r3, run.index);",
            "sums += part * scales4(r0, r1, r2, r3, run.index);
             sums.x = half_to_f32(f32_to_half(sums.x));",
        ),
    },
    Fault {
        name: "a skipped tail of K",
        format: "int8-channel",
        replace: ("b < steps;", "b + 1u < steps;"),
    },
    Fault {
        name: "swapped nibbles",
        format: "int4-g64",
        replace: ("(4u * (i & 1u))", "(4u * (1u - (i & 1u)))"),
    },
    Fault {
        name: "a dropped zero point",
        format: "int8-g64-asym",
        replace: (
            "let words = side_pair(r0, r1, zero_word(group));",
            "if (group == 63u) { return vec2<f32>(0.0); }
             let words = side_pair(r0, r1, zero_word(group));",
        ),
    },
    Fault {
        name: "shifted metadata",
        format: "2:4+int8-channel",
        replace: ("side_pair(r0, r1, b)", "side_pair(r0, r1, max(b, 1u) - 1u)"),
    },
    Fault {
        name: "a metadata nibble of the neighbouring quad",
        format: "2:4+int4-g40",
        replace: (
            "side_word(row, b) >> (4u * (quad & 7u))",
            "side_word(row, b) >> (4u * ((quad ^ 1u) & 7u))",
        ),
    },
    Fault {
        name: "a scale of the neighbouring group",
        format: "int4-g64-f16s",
        replace: (
            "return p.scale_at + group * ENTRY_BITS / 32u;",
            "return p.scale_at + group * ENTRY_BITS / 32u + select(0u, 1u, group == 8u);",
        ),
    },
    Fault {
        name: "a scale of the neighbouring group, general",
        format: "int8-g40",
        replace: (
            "vec4<u32>(k, k + 1u, k + 2u, k + 3u) / p.group_size",
            "vec4<u32>(k, k + 1u, k + 2u, k + 4u) / p.group_size",
        ),
    },
    Fault {
        name: "the scale of the neighbouring super-block",
        format: "q4_k",
        replace: (
            "return p.upper_at + super_block(group) * FIELDS / 2u;",
            "return p.upper_at + super_block(group) * FIELDS / 2u + select(0u, 1u, (group | 1u) == 9u);",
        ),
    },
    Fault {
        name: "a dropped minimum",
        format: "q5_1",
        replace: (
            "return fma(affine.y, (xq.x + xq.y) + (xq.z + xq.w), product);",
            "if (i == 5u) { return product; }
             return fma(affine.y, (xq.x + xq.y) + (xq.z + xq.w), product);",
        ),
    },
    Fault {
        name: "two entries of a codebook that are swapped",
        format: "nf4",
        // Tables are in selects or in registers, by the adapter; the constants are the same.
        replace: (
            "const TABLE_12: u32 = 1054975160u;\nconst TABLE_13: u32 = 1058015147u;",
            "const TABLE_13: u32 = 1054975160u;\nconst TABLE_12: u32 = 1058015147u;",
        ),
    },
    Fault {
        name: "a lost plane of high bits",
        format: "q6_k",
        replace: (
            "high = ((word >> (2u * (i & 3u))) & 0x03030303u) << 4u;",
            "high = select(((word >> (2u * (i & 3u))) & 0x03030303u) << 4u, 0u, i == 6u);",
        ),
    },
    Fault {
        name: "the zero point of the neighbouring group in a byte",
        format: "int4-g64-asym4",
        replace: (
            "return f32((word >> (4u * (group & 7u))) & 15u);",
            "return f32((word >> (4u * ((group ^ select(0u, 1u, group == 9u)) & 7u))) & 15u);",
        ),
    },
];

pub(crate) fn case(format: WeightFormat) -> Case {
    let types = (FloatType::F32, FloatType::F32);
    let mut case = Case::matmul(format, types, (1, 8, 4096), Values::Normal);
    (case.bias, case.strided) = (false, false);
    case.schedule = Some(Schedule::Rows { m_tile: 1, n_tile: 2 });
    case
}

/// Text of a shader and its replacement.
pub(crate) type Replace = (&'static str, &'static str);

/// A fault in matmuls of quantized X: the schedule, a name, and the formats of W, X and Y.
type IntegerFault = (&'static str, &'static str, &'static str, &'static str, &'static str, Replace);

const INTEGER_FAULTS: [IntegerFault; 25] = [
    (
        "int_rows_m1",
        "a dropped zero point of W",
        "int8-g64-asym",
        "int8-token",
        "f32",
        ("sum -= zw * sx;", "sum -= select(zw * sx, vec4<i32>(0), zw == vec4<i32>(zw.x));"),
    ),
    (
        "int_rows_m1",
        "a zero point of X off by one",
        "int8-channel",
        "int8-token-asym",
        "f32",
        ("sum -= sw * zx;", "sum -= sw * (zx + 1);"),
    ),
    (
        "int_rows_m1",
        "columns of a slice that are miscounted",
        "int8-g64-asym",
        "int8-g64-asym",
        "f32",
        ("32u * (run.place + 1u)", "32u * run.place + 31u"),
    ),
    (
        "int_rows_m1",
        "a skipped tail of K",
        "int8-channel",
        "int8-token",
        "f32",
        ("b < p.blocks; b", "b + 1u < p.blocks; b"),
    ),
    (
        "int_rows_m1",
        "swapped nibbles",
        "int4-g64",
        "int8-token",
        "f32",
        ("(4u - 4u * high)", "(4u * high)"),
    ),
    (
        "int_rows_m1",
        "one nibble left unsigned",
        "int4-g64",
        "int8-token",
        "f32",
        ("word ^ 0x88888888u", "word ^ 0x88888880u"),
    ),
    (
        "int_rows_m1",
        "a scale of the neighbouring group of X",
        "int8-channel",
        "int8-g64",
        "f32",
        ("p.x_scale_at + group", "p.x_scale_at + group + select(0u, 1u, group == 8u)"),
    ),
    (
        "int_rows_m1",
        "a scale of W that is applied too late",
        "int8-g64",
        "int8-g128",
        "f32",
        (
            "sums.r0 = add_slice(sums.r0, t0, sw,",
            "sums.r0 = add_slice(sums.r0, t0, scales4(w_rows, max(run.index, 1u) - 1u, 1u),",
        ),
    ),
    (
        "int_rows_m1",
        "dropped columns that hold 0, not the zero point",
        "2:4+int8-g64-asym",
        "int8-token",
        "f32",
        ("return fill ^ (", "return (fill & 0xffffff00u) ^ ("),
    ),
    (
        "int_rows_m1",
        "metadata of the neighbouring quad",
        "2:4+int4-g64",
        "int8-token",
        "f32",
        ("block.meta_word, 4u * i, 2u", "block.meta_word, 4u * (i ^ 1u), 2u"),
    ),
    (
        "int_rows_m1",
        "codes of Y that are cut off, not rounded",
        "int8-g64",
        "int8-token",
        "int8-tensor",
        ("round(vec4<f32>(low, high)", "floor(vec4<f32>(low, high)"),
    ),
    (
        "int_rows_m4",
        "a row of X in the place of its neighbour",
        "int8-channel",
        "int8-token",
        "f32",
        ("dots(quads, x_word(x, 2u, i))", "dots(quads, x_word(x, 1u, i))"),
    ),
    (
        "int_gemv_m1_l32",
        "a lane's slice that does not go along",
        "int8-g128",
        "int8-token",
        "f32",
        ("slice += far_slices;", "slice += far_slices - select(0u, 1u, b == 37u);"),
    ),
    (
        "int_gemv_m4_l32",
        "a sum of codes of X of another block",
        "int8-channel-asym",
        "int8-token",
        "f32",
        ("sum = x_sum(x_rows[r], b);", "sum = x_sum(x_rows[r], max(b, 1u) - 1u);"),
    ),
    (
        "int_tiled_32x64",
        "sums of codes that are not reset at the end of a slice",
        "int8-g64",
        "int8-token-asym",
        "f32",
        ("w_codes = vec4<i32>(0);\n        }", "}"),
    ),
    (
        "int_tiled_64x64",
        "a quad of X in the place of its neighbour",
        "int4-g64",
        "int8-token",
        "f32",
        ("dots(q2, x.z)", "dots(q2, x.w)"),
    ),
    (
        "int_tiled_64x64",
        "a scale of X of the row after",
        "int8-channel",
        "int8-token",
        "f32",
        ("sw, x_scale(rows[i], g), spot)", "sw, x_scale(rows[(i + 1u) % THREAD_M], g), spot)"),
    ),
    (
        "int_rows_m1",
        "a dropped minimum of one group",
        "q4_k",
        "int8-token-asym",
        "f32",
        (
            "let low = affines_words(rows.r0, rows.r1, g);",
            "if (g == 77u) { return vec4<f32>(0.0); }
             let low = affines_words(rows.r0, rows.r1, g);",
        ),
    ),
    (
        "int_tiled_32x64",
        "a minimum that counts zero points of X",
        "q5_1",
        "int8-token-asym",
        "f32",
        ("return sx - zx * i32(columns - past);", "return sx;"),
    ),
    (
        "int_gemv_m4_l32",
        "a minimum of the neighbouring group",
        "int4-g64-min-f16s",
        "int8-token",
        "f32",
        (
            "let high = affines_words(rows.r2, rows.r3, g);",
            "let high = affines_words(rows.r2, rows.r3, max(g, 1u) - 1u);",
        ),
    ),
    (
        "int_rows_m4",
        "a lost high bit plane",
        "q5_0",
        "int8-token",
        "f32",
        (
            "high = ((block.plane.x >> i) & 0x01010101u) << 4u;",
            "high = ((block.plane.x >> i) & 0x01010100u) << 4u;",
        ),
    ),
    (
        "int_rows_m1",
        "the other zero point of a byte",
        "int4-g64-asym4",
        "int8-token",
        "f32",
        ("(4u * (group & 7u))", "(4u * ((group ^ 1u) & 7u))"),
    ),
    (
        "int_gemv_m4_l32",
        "the scale of the other half of a block",
        "q6_k",
        "int8-token-asym",
        "f32",
        ("min(2u * slice + half, p.groups - 1u)", "min(2u * slice + (half ^ 1u), p.groups - 1u)"),
    ),
    (
        "int_rows_m4",
        "sums of a half of a block that are not reset",
        "int4-g16",
        "int8-g64",
        "f32",
        ("spot, m - row);\n            products = Products();", "spot, m - row);"),
    ),
    (
        "int_tiled_32x64",
        "a block of two scales that has only the second",
        "q3_k",
        "int8-token",
        "f32",
        ("if (!HALVES && (h == 0u || !ends)) {", "if (h == 0u || !ends) {"),
    ),
];

#[test]
fn each_fault_of_integer_products_is_caught() {
    let Some(host) = crate::common::host() else { return };
    let hosts = std::slice::from_ref(host);
    for (schedule, name, format, x, y, (from, to)) in crate::common::some_of(INTEGER_FAULTS, 2) {
        let output = match y {
            "f32" => Output::Float(FloatType::F32),
            y => Output::Int8(y.parse().unwrap()),
        };
        let quantized = Quantized { format: x.parse().unwrap(), output };
        let format: WeightFormat = format.parse().unwrap();
        let schedule: Schedule = schedule.parse().unwrap();
        let m = schedule.tile().0 as usize + 1;
        let mut case = Case::integer(format, quantized, (m, 8, 4096), Values::Normal);
        (case.bias, case.strided) = (false, false);
        case.schedule = Some(schedule);
        let sound = &run(hosts, std::slice::from_ref(&case), &|_| ())[0];
        assert_eq!(sound.status, Status::Pass, "{name}: {:?}", sound.reason);

        // The case has two kernels and gets a device of its own.
        let faulty = [Host::new().unwrap()];
        let mut planted = 0;
        for output in [Output::Accumulators, output] {
            let spec = MatmulSpec::new(m as u32, 8, 4096, format)
                .with_activations(Activations::Int8(quantized.format))
                .with_output(output);
            let caps = faulty[0].kernels().caps();
            let shader = KernelChoice::new(&spec, schedule, caps).shader();
            let text = shader.compose().unwrap().source;
            assert!(text.matches(from).count() <= 1, "{name}: the shader has changed");
            planted += text.matches(from).count();
            block_on(faulty[0].kernels().plant(&shader, &text.replace(from, to))).unwrap();
        }
        assert!(planted > 0, "{name}: the shader has changed");
        let report = &run(&faulty, std::slice::from_ref(&case), &|_| ())[0];
        assert_eq!(report.status, Status::Fail, "{name} was not caught");
        eprintln!("caught: {name:45} {}", report.reason.as_deref().unwrap_or(""));
    }
}

#[test]
fn each_fault_is_caught() {
    let Some(host) = crate::common::host() else { return };
    let hosts = std::slice::from_ref(host);
    for fault in &FAULTS {
        let format = fault.format.parse().unwrap();
        let case = case(format);
        let sound = &run(hosts, std::slice::from_ref(&case), &|_| ())[0];
        assert_eq!(sound.status, Status::Pass, "{}: {:?}", fault.name, sound.reason);

        // Each fault gets a device of its own, because its kernels are cached there.
        let faulty = [Host::new().unwrap()];
        let spec = MatmulSpec::new(1, 8, 4096, format);
        let shader = KernelChoice::new(
            &spec,
            Schedule::Rows { m_tile: 1, n_tile: 2 },
            faulty[0].kernels().caps(),
        )
        .shader();
        let sound_text = shader.compose().unwrap().source;
        let (from, to) = fault.replace;
        assert_eq!(sound_text.matches(from).count(), 1, "{}: the shader has changed", fault.name);
        block_on(faulty[0].kernels().plant(&shader, &sound_text.replace(from, to))).unwrap();
        let report = &run(&faulty, std::slice::from_ref(&case), &|_| ())[0];
        assert_eq!(report.status, Status::Fail, "{} was not caught", fault.name);
        let reason = report.reason.as_deref().unwrap_or_default();
        let by = ["values: y[", "one-hot: y[", "integers: y["];
        assert!(by.iter().any(|by| reason.starts_with(by)), "{}: {reason}", fault.name);
        eprintln!("caught: {:45} {}", fault.name, report.reason.as_deref().unwrap_or(""));
    }
}

/// Returns the faults in ops that have only X: the case, the start of the kernel's name, and the
/// replacement.
fn faults_of_x() -> Vec<(&'static str, Case, &'static str, Replace)> {
    let f32s = (FloatType::F32, FloatType::F32);
    let case = |op, format, shape, values| {
        let case = Case::of_x(op, format, f32s, shape, values);
        Case { strided: false, ..case }
    };
    let quantize = |format: &str, values| {
        let format: ActivationFormat = format.parse().unwrap();
        let op = Op::Quantize { format, given: false };
        case(op, WeightFormat::f32(), (5, 100), values)
    };
    let observe = |axis, bins| {
        case(Op::Observe { axis, bins }, WeightFormat::f32(), (300, 66), Values::Normal)
    };
    let gram = || case(Op::Gram, WeightFormat::f32(), (300, 66), Values::Normal);
    let fake = |format: &str, from| {
        case(Op::FakeQuant(from), format.parse().unwrap(), (5, 100), Values::Normal)
    };
    let (normal, not_finite) = (Values::Normal, Values::NotFinite);
    vec![
        (
            "a sum of codes that leaves out the last column",
            quantize("int8-token", normal),
            "activations_quantize",
            (
                "sum += codes.x + codes.y + codes.z + codes.w;",
                "let kept = select(vec4<i32>(0), codes, columns + vec4<u32>(1u) < vec4<u32>(p.k));
                 sum += kept.x + kept.y + kept.z + kept.w;",
            ),
        ),
        (
            "codes past the last column",
            quantize("int8-g32-asym", normal),
            "activations_quantize",
            (
                "select(vec4<i32>(0), vec4<i32>(c), columns < vec4<u32>(source_columns()))",
                "vec4<i32>(c)",
            ),
        ),
        (
            "codes that are cut off, not rounded",
            quantize("int8-tensor", normal),
            "activations_quantize",
            ("round(x / s.divisor)", "trunc(x / s.divisor)"),
        ),
        (
            "a range of one sign",
            quantize("int8-token-asym", normal),
            "activations_quantize",
            ("range.high / 255.0 + range.low / 255.0", "2.0 * range.high / 255.0"),
        ),
        (
            "a NaN that does not show",
            quantize("int8-tensor-asym", not_finite),
            "activations_quantize",
            ("if (range.bad)", "if (false)"),
        ),
        (
            "a carry that is lost",
            observe(Axis::Tensor, 64),
            "observe_histogram",
            ("before + value < before", "false"),
        ),
        (
            "negative bins that are one off",
            observe(Axis::Channel, 16),
            "observe_histogram",
            ("above - vec4<u32>(1u) - bin", "above - bin"),
        ),
        (
            "a row of a tile that is not ranged",
            observe(Axis::Channel, 0),
            "observe_ranges",
            ("row < tile.end; row", "row + 1u < tile.end; row"),
        ),
        (
            "a carry between words that is lost",
            gram(),
            "gram",
            ("let t3 = old.w + x.w + c2;", "let t3 = old.w + x.w;"),
        ),
        (
            "a word that is taken too early",
            gram(),
            "gram",
            ("let word = left >> 5u;", "let word = (left + 8u) >> 5u;"),
        ),
        (
            "a last row that is not added",
            gram(),
            "gram",
            ("values, row < end)", "values, row + 1u < end)"),
        ),
        (
            "a tile in the place of its neighbour",
            gram(),
            "gram",
            ("let a = index - b * (b + 1u) / 2u;", "let a = b - (index - b * (b + 1u) / 2u);"),
        ),
        (
            "a zero point that is kept",
            fake("int8-tensor-asym", FakeScales::Given),
            "fake_forward",
            ("(q - s.zero)", "q"),
        ),
        (
            "a skipped last column",
            fake("int8-channel", FakeScales::Dynamic),
            "fake_dynamic",
            ("4u * q < to_column", "4u * q + 4u < to_column"),
        ),
        (
            "no gradient scale",
            fake("int8-g32", FakeScales::Lsq),
            "fake_groups",
            ("if (p.gain > 0.0)", "if (false)"),
        ),
    ]
}

#[test]
fn each_fault_of_what_takes_x_is_caught() {
    let Some(host) = crate::common::host() else { return };
    let hosts = std::slice::from_ref(host);
    for (name, case, kernel, (from, to)) in faults_of_x() {
        let sound = &run(hosts, std::slice::from_ref(&case), &|_| ())[0];
        assert_eq!(sound.status, Status::Pass, "{name}: {:?}", sound.reason);
        // Each fault gets a device of its own, because its kernels are cached there.
        let faulty = [Host::new().unwrap()];
        let (m, k) = (case.m as u32, case.k as u32);
        let caps = faulty[0].kernels().caps();
        let shaders: Vec<KernelDesc> = match case.op {
            Op::Quantize { format, .. } => QuantizeActivationsSpec::new(m, k, format).shaders(caps),
            Op::Observe { axis, bins } => ObserveSpec::new(m, k, axis, bins).shaders(caps),
            Op::Gram => vec![GramSpec::new(m, k).shader(caps)],
            Op::FakeQuant(from) => {
                let mut spec = FakeQuantSpec::new(m, k, case.format);
                spec.given = from != FakeScales::Dynamic;
                let forward = spec.forward_shaders(caps).into_iter();
                forward.chain(spec.backward_shaders(caps)).collect()
            }
            op => panic!("{op:?}"),
        };
        let shader = shaders.iter().find(|shader| shader.id.starts_with(kernel)).unwrap();
        let text = shader.compose().unwrap().source;
        assert_eq!(text.matches(from).count(), 1, "{name}: the shader has changed");
        block_on(faulty[0].kernels().plant(shader, &text.replace(from, to))).unwrap();
        let report = &run(&faulty, std::slice::from_ref(&case), &|_| ())[0];
        assert_eq!(report.status, Status::Fail, "{name} was not caught");
        eprintln!("caught: {name:45} {}", report.reason.as_deref().unwrap_or(""));
    }
}

/// Faults in reading weights: a name, the format, and the replacement.
const READING_FAULTS: [(&str, &str, Replace); 12] = [
    (
        "a scale of the neighbouring super-block",
        "int4-g32-min-i8s",
        (
            "let block = group * params.group_size / 256u;",
            "let block = (group * params.group_size / 256u) ^ select(0u, 1u, which == 0u);",
        ),
    ),
    (
        "a minimum of the neighbouring super-block",
        "int2-g16-min-i8s",
        (
            "let block = group * params.group_size / 256u;",
            "let block = (group * params.group_size / 256u) ^ select(0u, 1u, which == 1u);",
        ),
    ),
    (
        "a dropped minimum",
        "int4-g32-min-f16s",
        ("number * scale + minimum", "number * scale + select(minimum, 0.0, group == 7u)"),
    ),
    (
        "a zero point that is a float and not scaled",
        "int4-g64-fzero",
        ("minimum *= -scale;", "minimum *= -1.0;"),
    ),
    ("a swapped codebook entry", "nf4-g64", ("TABLE_2, TABLE_3,", "TABLE_3, TABLE_2,")),
    (
        "a swapped entry of the matrix's own codebook",
        "codebook-g64",
        ("32u, code))", "32u, select(code, code ^ 1u, code >= 14u)))"),
    ),
    (
        "a lost high plane",
        "int5-g32-f16s",
        ("(high << ELEMENT_BITS)", "select(high << ELEMENT_BITS, 0u, position % 32u == 31u)"),
    ),
    (
        "a high plane of the neighbouring quad",
        "int6-g16-i8s",
        ("PLANE_BITS * (quad % QUADS)", "PLANE_BITS * (quad % QUADS ^ select(0u, 1u, quad == 5u))"),
    ),
    (
        "the order of columns in the place of its inverse",
        "int4-g64-perm",
        ("return order[params.k + column];", "return order[column];"),
    ),
    (
        "two columns swapped",
        "int8-channel-perm",
        (
            "return order[params.k + column];",
            "return order[params.k + (column ^ select(0u, 1u, column < 2u))];",
        ),
    ),
    (
        "a zero point of the neighbouring group in a packed byte",
        "int4-g64-asym4",
        ("max(ZERO_BITS, 4u), group)", "max(ZERO_BITS, 4u), group ^ select(0u, 1u, group == 6u))"),
    ),
    (
        "an 8-bit float with a mantissa of another length",
        "e5m2-g64",
        ("vec4<u32>(code), MANTISSA)", "vec4<u32>(code), 5u - MANTISSA)"),
    ),
];

#[test]
fn each_fault_of_reading_weights_is_caught() {
    let Some(host) = crate::common::host() else { return };
    let hosts = std::slice::from_ref(host);
    for (turn, (name, format, (from, to))) in READING_FAULTS.into_iter().enumerate() {
        let format: WeightFormat = format.parse().unwrap();
        let output = [FloatType::F32, FloatType::F16][turn % 2];
        let mut case = Case::matmul(format, (FloatType::F32, output), (0, 8, 4096), Values::Normal);
        (case.op, case.bias, case.strided) = (Op::Dequantize, false, false);
        let sound = &run(hosts, std::slice::from_ref(&case), &|_| ())[0];
        assert_eq!(sound.status, Status::Pass, "{name}: {:?}", sound.reason);
        // Each fault gets a device of its own, because its kernels are cached there.
        let faulty = [Host::new().unwrap()];
        let spec = DequantizeSpec::new(8, 4096, format).with_output(output);
        let shader = spec.shader(faulty[0].kernels().caps());
        caught(&faulty, &case, &shader, (name, from, to));
    }
}

/// Plants a fault in one kernel, runs the case, and asserts that it fails.
pub(crate) fn caught(
    faulty: &[Host],
    case: &Case,
    shader: &KernelDesc,
    (name, from, to): (&str, &str, &str),
) {
    let text = shader.compose().unwrap().source;
    assert_eq!(text.matches(from).count(), 1, "{name}: the shader has changed");
    block_on(faulty[0].kernels().plant(shader, &text.replace(from, to))).unwrap();
    let report = &run(faulty, std::slice::from_ref(case), &|_| ())[0];
    assert_eq!(report.status, Status::Fail, "{name} was not caught");
    let reason = report.reason.as_deref().unwrap_or_default();
    let by =
        ["row ", "word ", "values: ", "integers: ", "single: ", "mean: ", "select: ", "poison: "];
    assert!(by.iter().any(|by| reason.starts_with(by)), "{name}: {reason}");
    eprintln!("caught: {name:45} {reason}");
}

/// A wrong permutation of X shows in the op itself, and in a matmul of weights with permuted columns.
#[test]
fn each_fault_of_permuted_columns_is_caught() {
    let Some(host) = crate::common::host() else { return };
    let hosts = std::slice::from_ref(host);
    let f32s = (FloatType::F32, FloatType::F32);
    let alone = Case::of_x(Op::PermuteColumns, WeightFormat::f32(), f32s, (5, 100), Values::Normal);
    let matmul = case("int4-g64-perm".parse().unwrap());
    for case in [alone, matmul] {
        let sound = &run(hosts, std::slice::from_ref(&case), &|_| ())[0];
        assert_eq!(sound.status, Status::Pass, "{:?}", sound.reason);
        for (name, from, to) in [
            (
                "two columns swapped",
                "order[p.order_at + j]",
                "order[p.order_at + (j ^ select(0u, 1u, j < 2u))]",
            ),
            ("columns left in order", "let column = order[p.order_at + j];", "let column = j;"),
            ("a row in the place of another", "row * p.x_stride", "(row ^ 1u) * p.x_stride"),
        ] {
            // The matmul has a single row.
            if case.m == 1 && name.starts_with("a row") {
                continue;
            }
            let faulty = [Host::new().unwrap()];
            let shader = PermuteColumnsSpec::new(1, case.k as u32).shader();
            caught(&faulty, &case, &shader, (name, from, to));
        }
    }
}
