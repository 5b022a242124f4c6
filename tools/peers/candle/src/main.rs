//! candle's matmuls on the CPU: dense, and ggml's formats, for which it quantizes X to int8.

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Device, Module, Tensor};
use protocol::{Case, Hello, Ready, Run, check, serve, uniform};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    serve(Hello { version: "0.11.1".into(), adapter: None, driver: None }, prepare)
}

fn prepare(case: &Case) -> Result<(Ready, Run), Box<dyn Error>> {
    let Case { m, n, k, .. } = *case;
    let values = uniform(m * k, 2);
    let x = Tensor::from_slice(&values, (m, k), &Device::Cpu)?;
    let mut w = uniform(n * k, 1);
    let plain = Tensor::from_slice(&w, (n, k), &Device::Cpu)?;
    let kind = match case.format.as_str() {
        "f32" => None,
        "f16" => Some(GgmlDType::F16),
        "q8_0" => Some(GgmlDType::Q8_0),
        "q4_0" => Some(GgmlDType::Q4_0),
        "q4_K" => Some(GgmlDType::Q4K),
        other => return Err(format!("candle has no format {other}").into()),
    };
    let matmul: Box<dyn Fn() -> candle_core::Result<Tensor>> = match kind {
        None => {
            let transposed = plain.t()?;
            Box::new(move || x.matmul(&transposed))
        }
        Some(kind) => {
            let quantized = QTensor::quantize(&plain, kind)?;
            w = quantized.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()?;
            let weights = QMatMul::from_qtensor(quantized)?;
            Box::new(move || weights.forward(&x))
        }
    };
    check(case, &values, &w, &matmul()?.flatten_all()?.to_vec1::<f32>()?)?;
    let run: Run = Box::new(move || {
        matmul()?;
        Ok(())
    });
    Ok((Ready { kernel: None, activations: case.activations }, run))
}
