//! boostr's quantized matmuls and, beneath it, numr's dense and 2:4 ones.
//!
//! usage: peer-boostr boostr|numr

use boostr::QuantMatmulOps;
use boostr::quant::{QuantFormat, QuantTensor, QuantizeOps};
use numr::ops::MatmulOps;
use numr::ops::traits::Sparse24Ops;
use numr::runtime::cpu::{CpuClient, CpuDevice, CpuRuntime};
use numr::runtime::wgpu::{WgpuClient, WgpuDevice, WgpuRuntime};
use numr::runtime::{Runtime, RuntimeClient};
use numr::tensor::Tensor;
use protocol::{Case, Hello, Ready, Run, check, integers, serve, uniform, weights_of};
use std::error::Error;

type GpuTensor = Tensor<WgpuRuntime>;
type Matmul = Box<dyn FnMut() -> Result<GpuTensor, Box<dyn Error>>>;

fn main() -> Result<(), Box<dyn Error>> {
    let device = WgpuDevice::new(0);
    let client = WgpuRuntime::default_client(&device);
    let version = match std::env::args().nth(1).as_deref() {
        Some("boostr") => "0.10.0",
        Some("numr") => "0.14.0",
        _ => return Err("usage: peer-boostr boostr|numr".into()),
    };
    let adapter = Some(client.device().adapter_name()).filter(|name| name != "unknown");
    let hello = Hello { version: version.into(), adapter, driver: None };
    serve(hello, |case| prepare(&device, &client, case))
}

fn prepare(
    device: &WgpuDevice,
    client: &WgpuClient,
    case: &Case,
) -> Result<(Ready, Run), Box<dyn Error>> {
    let Case { m, k, .. } = *case;
    let values = uniform(m * k, 2);
    let x = GpuTensor::from_slice(&values, &[m, k], device)?;
    let (w, mut matmul) = match case.format.as_str() {
        "q8_0" => quantized(QuantFormat::Q8_0, &integers(-127..=127), x, case, device, client)?,
        "q4_0" => quantized(QuantFormat::Q4_0, &integers(-8..=7), x, case, device, client)?,
        "awq g128" => awq(x, case, device, client)?,
        "dense" => dense(x, case, device, client)?,
        "2:4" => two_four(x, case, device, client)?,
        other => return Err(format!("neither boostr nor numr has a format {other}").into()),
    };
    check(case, &values, &w, &matmul()?.to_vec::<f32>())?;
    let client = client.clone();
    let run: Run = Box::new(move || {
        // Dropped after the wait, as by a caller who reads it.
        let _y = matmul()?;
        client.synchronize();
        Ok(())
    });
    Ok((Ready { kernel: None, activations: case.activations }, run))
}

/// Weights as plain numbers, and the matmul with them.
type Prepared = Result<(Vec<f32>, Matmul), Box<dyn Error>>;

fn quantized(
    format: QuantFormat,
    levels: &[f32],
    x: GpuTensor,
    case: &Case,
    device: &WgpuDevice,
    client: &WgpuClient,
) -> Prepared {
    let shape = [case.n, case.k];
    let w = weights_of(case.n, case.k, 32, levels);
    let cpu = CpuDevice::new();
    let plain = Tensor::<CpuRuntime>::from_slice(&w, &shape, &cpu)?;
    let bytes = CpuClient::new(cpu).quantize(&plain, format)?.to_bytes()?;
    let weights = QuantTensor::<WgpuRuntime>::from_bytes(&bytes, format, &shape, device)?;
    let client = client.clone();
    Ok((w, Box::new(move || Ok(client.quant_matmul(&x, &weights)?))))
}

/// `(q − z) · s`, W `[K, N]`, eight columns a word in an order of its own.
fn awq(x: GpuTensor, case: &Case, device: &WgpuDevice, client: &WgpuClient) -> Prepared {
    const GROUP: usize = 128;
    const SHIFTS: [usize; 8] = [0, 16, 4, 20, 8, 24, 12, 28];
    let Case { n, k, .. } = *case;
    let groups = k / GROUP;
    let codes: Vec<u32> = uniform(n * k, 3).iter().map(|u| (u * 8.0 + 8.0) as u32 & 15).collect();
    let zeros: Vec<f32> = uniform(groups * n, 4).iter().map(|u| (u * 8.0 + 8.0).floor()).collect();
    let scales: Vec<f32> = uniform(groups * n, 5).iter().map(|u| 0.75 + u / 4.0).collect();
    let mut w = vec![0.0; n * k];
    let mut words = vec![0u32; k * n / 8];
    for (at, &code) in codes.iter().enumerate() {
        let (row, column) = (at / n, at % n);
        let side = row / GROUP * n + column;
        words[at / 8] |= code << SHIFTS[column % 8];
        w[column * k + row] = (code as f32 - zeros[side]) * scales[side];
    }
    let words = GpuTensor::from_slice(&words, &[k, n / 8], device)?;
    let scales = GpuTensor::from_slice(&scales, &[groups, n], device)?;
    let zeros = GpuTensor::from_slice(&zeros, &[groups, n], device)?;
    let client = client.clone();
    Ok((w, Box::new(move || Ok(client.int4_gemm(&x, &words, &scales, &zeros, GROUP)?))))
}

fn dense(x: GpuTensor, case: &Case, device: &WgpuDevice, client: &WgpuClient) -> Prepared {
    let w = uniform(case.n * case.k, 1);
    let weights = GpuTensor::from_slice(&w, &[case.n, case.k], device)?.t()?.contiguous()?;
    let client = client.clone();
    Ok((w, Box::new(move || Ok(client.matmul(&x, &weights)?))))
}

/// Weights that are 2:4 already: what pruning keeps is then no question.
fn two_four(x: GpuTensor, case: &Case, device: &WgpuDevice, client: &WgpuClient) -> Prepared {
    const KEPT: [[usize; 2]; 6] = [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]];
    let mut w = uniform(case.n * case.k, 1);
    for (at, quad) in w.chunks_exact_mut(4).enumerate() {
        let kept = KEPT[at % 6];
        (0..4).filter(|i| !kept.contains(i)).for_each(|i| quad[i] = 0.0);
    }
    let plain = GpuTensor::from_slice(&w, &[case.n, case.k], device)?;
    let weights = client.prune_to_24(&plain)?;
    let client = client.clone();
    Ok((w, Box::new(move || Ok(client.sparse_24_matmul(&x, &weights)?))))
}
