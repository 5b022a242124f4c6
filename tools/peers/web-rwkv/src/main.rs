//! web-rwkv's matmuls: f16, int8 with a minimum and maximum a group of 128, and nf4.

use half::f16;
use pollster::block_on;
use protocol::{Case, Hello, Ready, Run, check, integers, serve, uniform, weights_of};
use std::error::Error;
use web_rwkv::context::{Context, ContextBuilder, InstanceExt};
use web_rwkv::tensor::TensorGpu;
use web_rwkv::tensor::kind::ReadWrite;
use web_rwkv::tensor::matrix::{Float4Quant, Matrix};
use web_rwkv::tensor::ops::{Activation, TensorOp};
use web_rwkv::tensor::shape::Shape;

fn main() -> Result<(), Box<dyn Error>> {
    let instance = wgpu::Instance::default();
    let adapter = block_on(instance.adapter(wgpu::PowerPreference::HighPerformance))?;
    let (info, limits) = (adapter.get_info(), adapter.limits());
    let context = block_on(ContextBuilder::new(adapter).limits(limits).build())?;
    let hello = Hello {
        version: "0.10.20".into(),
        adapter: Some(info.name),
        driver: Some(format!("{} {}", info.driver, info.driver_info).trim().into()),
    };
    serve(hello, |case| prepare(&context, case))
}

fn prepare(context: &Context, case: &Case) -> Result<(Ready, Run), Box<dyn Error>> {
    let Case { m, n, k, .. } = *case;
    let w = match case.format.as_str() {
        "fp16" => uniform(n * k, 1).into_iter().map(|w| f16::from_f32(w).to_f32()).collect(),
        "int8" => weights_of(n, k, 128, &integers(-128..=127)),
        "nf4" => weights_of(n, k, 64, &Float4Quant::default().0),
        other => return Err(format!("web-rwkv has no format {other}").into()),
    };
    let halves: Vec<f16> = w.iter().copied().map(f16::from_f32).collect();
    let dense: TensorGpu<f16, ReadWrite> =
        context.tensor_from_data(Shape::new(k, n, 1, 1), halves)?;
    let matrix = match case.format.as_str() {
        "int8" => Matrix::quant_u8(&dense)?,
        "nf4" => Matrix::quant_nf4(&dense)?,
        _ => Matrix::Fp16(dense),
    };
    let x = uniform(m * k, 2);
    let input: TensorGpu<f32, ReadWrite> =
        context.tensor_from_data(Shape::new(k, m, 1, 1), x.clone())?;
    let output: TensorGpu<f32, ReadWrite> = context.tensor_init(Shape::new(n, m, 1, 1));

    // It has a kernel for few rows of X and one for many, and leaves the choice to its caller.
    let mut best: Option<(f64, &str, TensorOp)> = None;
    for (name, many) in [("vec", false), ("mat", true)] {
        if many && m == 1 {
            continue;
        }
        let op = matrix.matmul_op(&input, &output, Activation::None, many)?;
        submit(context, &op)?;
        let y: Vec<f32> = block_on(output.back()).to_vec();
        check(case, &x, &w, &y)?;
        let start = std::time::Instant::now();
        submit(context, &op)?;
        let ms = start.elapsed().as_secs_f64() * 1e3;
        if best.as_ref().is_none_or(|best| ms < best.0) {
            best = Some((ms, name, op));
        }
    }
    let (_, name, op) = best.ok_or("no kernel ran")?;
    let context = context.clone();
    let run: Run = Box::new(move || {
        let _alive = (&input, &output, &matrix);
        submit(&context, &op)
    });
    let kernel = Some(format!("matmul_{name}_{}", case.format));
    Ok((Ready { kernel, activations: case.activations }, run))
}

fn submit(context: &Context, op: &TensorOp) -> Result<(), Box<dyn Error>> {
    context.queue.submit(context.encode(op));
    context.device.poll(wgpu::PollType::wait_indefinitely())?;
    Ok(())
}
