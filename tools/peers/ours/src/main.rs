//! lowbit itself, as one of the processes that are timed.

use lowbit::format::{ActivationFormat, ActivationGranularity, WeightFormat};
use lowbit::host::Host;
use lowbit::ops::{
    FloatType, MatmulArgs, MatmulPlan, MatmulSpec, QuantizeActivationsArgs,
    QuantizeActivationsPlan, QuantizeActivationsSpec, Select,
};
use lowbit::reference;
use pollster::block_on;
use protocol::{Activations, Case, Hello, Ready, Run, check, serve, uniform};
use std::error::Error;
use std::rc::Rc;

fn main() -> Result<(), Box<dyn Error>> {
    let host = Rc::new(Host::new()?);
    let info = host.adapter_info();
    let hello = Hello {
        version: lowbit::VERSION.into(),
        adapter: Some(info.name.clone()),
        driver: Some(format!("{} {}", info.driver, info.driver_info).trim().into()),
    };
    serve(hello, |case| prepare(&host, case))
}

fn prepare(host: &Rc<Host>, case: &Case) -> Result<(Ready, Run), Box<dyn Error>> {
    let mut x = uniform(case.m * case.k, 2);
    let (given, words) = match case.activations {
        Activations::F16 => {
            let words = halves(&x);
            x.iter_mut().for_each(|x| *x = half::f16::from_f32(*x).to_f32());
            (FloatType::F16, words)
        }
        _ => (FloatType::F32, x.iter().map(|x| x.to_bits()).collect()),
    };
    let format: WeightFormat = case.format.parse()?;
    let m = u32::try_from(case.m)?;
    let weights = host.compress(&uniform(case.n * case.k, 1), case.n, case.k, &format)?;
    let input = host.storage(&words)?;
    let mut spec = MatmulSpec::of(m, &weights).with_activations(given);
    // Codes of X are made within what is timed, as the peers do: a scale for each row.
    let mut quantize = None;
    let mut source = input.clone();
    if case.activations == Activations::Int8 {
        let token = ActivationFormat::int8(ActivationGranularity::Token);
        spec = spec.with_activations(lowbit::ops::Activations::Int8(token));
        let plan = QuantizeActivationsSpec::new(m, spec.k, token);
        let plan = block_on(QuantizeActivationsPlan::new(host.kernels(), &plan))?;
        source = host.zeros(plan.output_bytes(m))?;
        let args = QuantizeActivationsArgs {
            activations: (&input).into(),
            given: None,
            output: (&source).into(),
        };
        quantize = Some(block_on(plan.bind(args))?);
    }
    let plan = block_on(MatmulPlan::new(host.kernels(), &spec, Select::Auto))?;
    let output = host.zeros(spec.y_bytes(m))?;
    let bound = block_on(plan.bind(MatmulArgs {
        activations: (&source).into(),
        weights: &weights,
        bias: None,
        output: (&output).into(),
    }))?;
    let device = host.clone();
    let mut run: Run = {
        let output = output.clone();
        Box::new(move || {
            let _alive = (&input, &source, &output);
            let mut recorded = Ok(());
            device.submit(|pass| {
                let quantized = quantize.as_ref().map_or(Ok(()), |q| q.record(pass, m));
                recorded = quantized.and(bound.record(pass, m));
            })?;
            Ok(recorded?)
        })
    };
    run()?;
    let y: Vec<f32> =
        host.read(&output, 0, case.m * case.n)?.into_iter().map(f32::from_bits).collect();
    let stored = reference::dequantize_f64(&host.download(&weights)?)?;
    let stored: Vec<f32> = stored.into_iter().map(|w| w as f32).collect();
    // Sums are f32 or exact integers whatever X is; only codes of X are off.
    let exact = match case.activations {
        Activations::Int8 => Activations::Int8,
        _ => Activations::F32,
    };
    check(&Case { activations: exact, ..case.clone() }, &x, &stored, &y)?;
    let kernel = Some(plan.kernel(m).name());
    Ok((Ready { kernel, activations: case.activations }, run))
}

/// f16 pairs in words, as kernels read them. K is even in every case here.
fn halves(x: &[f32]) -> Vec<u32> {
    let half = |x: f32| u32::from(half::f16::from_f32(x).to_bits());
    x.chunks(2).map(|pair| half(pair[0]) | half(pair[1]) << 16).collect()
}
