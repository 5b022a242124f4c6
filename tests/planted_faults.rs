//! Proof that the conformance runner can fail: each fault of a list is planted in a composed
//! shader, and a case at K = 4096 catches it, as does the same case pass without it.

mod common;

use lowbit::conformance::{Case, Quantized, Status, Values, run};
use lowbit::format::WeightFormat;
use lowbit::host::Host;
use lowbit::ops::matmul::{KernelChoice, MatmulSpec, Schedule};
use lowbit::ops::{Activations, FloatType, Output};
use pollster::block_on;

struct Fault {
    name: &'static str,
    format: &'static str,
    /// Text in the composed shader, and what stands there instead.
    replace: (&'static str, &'static str),
}

const FAULTS: [Fault; 9] = [
    Fault {
        name: "one wrong nibble in the last group",
        format: "int4-g64-asym",
        replace: (
            "return Block(load16(block_at(row, b)));",
            "var word = load16(block_at(row, b));
             if (row.codes % PANEL == 3u && b == p.blocks - 1u) { word.w ^= 0x10000000u; }
             return Block(word);",
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
            "p.scale_at + (group >> 1u)",
            "p.scale_at + (group >> 1u) + select(0u, 1u, group == 8u)",
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
];

fn case(format: WeightFormat) -> Case {
    let types = (FloatType::F32, FloatType::F32);
    let mut case = Case::matmul(format, types, (1, 8, 4096), Values::Normal);
    (case.bias, case.strided) = (false, false);
    case.schedule = Some(Schedule::Rows { m_tile: 1, n_tile: 2 });
    case
}

/// Of matmuls of quantized X: format of W, X, Y, what is replaced.
const INTEGER_FAULTS: [(&str, &str, &str, &str, (&str, &str)); 11] = [
    (
        "a dropped zero point of W",
        "int8-g64-asym",
        "int8-token",
        "f32",
        ("sum -= zw * sx;", "sum -= select(zw * sx, vec4<i32>(0), zw == vec4<i32>(zw.x));"),
    ),
    (
        "a zero point of X off by one",
        "int8-channel",
        "int8-token-asym",
        "f32",
        ("sum -= sw * zx;", "sum -= sw * (zx + 1);"),
    ),
    (
        "columns of a piece that are miscounted",
        "int8-g64-asym",
        "int8-g64-asym",
        "f32",
        ("32u * (run.place + 1u)", "32u * run.place + 31u"),
    ),
    (
        "a skipped tail of K",
        "int8-channel",
        "int8-token",
        "f32",
        ("b < p.blocks; b", "b + 1u < p.blocks; b"),
    ),
    ("swapped nibbles", "int4-g64", "int8-token", "f32", ("(4u - 4u * high)", "(4u * high)")),
    (
        "one nibble left unsigned",
        "int4-g64",
        "int8-token",
        "f32",
        ("word ^ 0x88888888u", "word ^ 0x88888880u"),
    ),
    (
        "a scale of the neighbouring group of X",
        "int8-channel",
        "int8-g64",
        "f32",
        ("p.x_scale_at + group", "p.x_scale_at + group + select(0u, 1u, group == 8u)"),
    ),
    (
        "a scale of W that is applied too late",
        "int8-g64",
        "int8-g128",
        "f32",
        (
            "sums.r0 = add_piece(sums.r0, t0, sw,",
            "sums.r0 = add_piece(sums.r0, t0, scales4(w_rows, max(run.index, 1u) - 1u),",
        ),
    ),
    (
        "dropped columns that hold 0, not the zero point",
        "2:4+int8-g64-asym",
        "int8-token",
        "f32",
        ("return fill ^ (", "return (fill & 0xffffff00u) ^ ("),
    ),
    (
        "metadata of the neighbouring quad",
        "2:4+int4-g64",
        "int8-token",
        "f32",
        ("block.meta_word, 4u * i, 2u", "block.meta_word, 4u * (i ^ 1u), 2u"),
    ),
    (
        "codes of Y that are cut off, not rounded",
        "int8-g64",
        "int8-token",
        "int8-tensor",
        ("round(vec4<f32>(low, high)", "floor(vec4<f32>(low, high)"),
    ),
];

#[test]
fn each_fault_of_integer_products_is_caught() {
    let Some(host) = common::host() else { return };
    let hosts = [host];
    for (name, format, x, y, (from, to)) in INTEGER_FAULTS {
        let output = match y {
            "f32" => Output::Float(FloatType::F32),
            y => Output::Int8(y.parse().unwrap()),
        };
        let quantized = Quantized { format: x.parse().unwrap(), output };
        let format: WeightFormat = format.parse().unwrap();
        let mut case = Case::integer(format, quantized, (1, 8, 4096), Values::Normal);
        (case.bias, case.strided) = (false, false);
        let schedule = Schedule::IntRows { m_tile: 1 };
        case.schedule = Some(schedule);
        let sound = &run(&hosts, std::slice::from_ref(&case), &|_| ())[0];
        assert_eq!(sound.status, Status::Pass, "{name}: {:?}", sound.reason);

        // Both kernels of the case, on a device of its own.
        let faulty = [Host::new().unwrap()];
        let mut planted = 0;
        for output in [Output::Accumulators, output] {
            let spec = MatmulSpec::new(1, 8, 4096, format)
                .with_activations(Activations::Int8(quantized.format))
                .with_output(output);
            let caps = faulty[0].kernels().caps();
            let shader = KernelChoice::new(&spec, schedule, caps).shader();
            let text = shader.compose().source;
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
    let Some(host) = common::host() else { return };
    let hosts = [host];
    for fault in &FAULTS {
        let format = fault.format.parse().unwrap();
        let case = case(format);
        let sound = &run(&hosts, std::slice::from_ref(&case), &|_| ())[0];
        assert_eq!(sound.status, Status::Pass, "{}: {:?}", fault.name, sound.reason);

        // A device of its own: the kernel cache is the fault's.
        let faulty = [Host::new().unwrap()];
        let spec = MatmulSpec::new(1, 8, 4096, format);
        let shader = KernelChoice::new(
            &spec,
            Schedule::Rows { m_tile: 1, n_tile: 2 },
            faulty[0].kernels().caps(),
        )
        .shader();
        let sound_text = shader.compose().source;
        let (from, to) = fault.replace;
        assert_eq!(sound_text.matches(from).count(), 1, "{}: the shader has changed", fault.name);
        block_on(faulty[0].kernels().plant(&shader, &sound_text.replace(from, to))).unwrap();
        let report = &run(&faulty, std::slice::from_ref(&case), &|_| ())[0];
        assert_eq!(report.status, Status::Fail, "{} was not caught", fault.name);
        let reason = report.reason.as_deref().unwrap_or_default();
        let by = ["values: y[", "one-hot: y[", "pattern (a), integers: y["];
        assert!(by.iter().any(|by| reason.starts_with(by)), "{}: {reason}", fault.name);
        eprintln!("caught: {:45} {}", fault.name, report.reason.as_deref().unwrap_or(""));
    }
}
