//! Tests of codes in textures. The results must equal those of the same kernels with buffers bit
//! for bit, with rows of texels so short that every block of weights ends within one. Missing
//! textures give errors.

use lowbit::format::{Granularity, RowOrder, WeightFormat};
use lowbit::gpu::Caps;
use lowbit::host::{Host, HostError};
use lowbit::ops::matmul::{Schedule, code_textures_pay};
use lowbit::ops::{
    BindError, DequantizeArgs, DequantizePlan, DequantizeSpec, DeviceWeights, MatmulArgs,
    MatmulPlan, MatmulSpec, QuantizeWeightsArgs, QuantizeWeightsPlan, QuantizeWeightsSpec,
    RepackArgs, RepackPlan, RepackSpec, RowBlock, Select, SourceRows, WeightsError,
};
use pollster::block_on;

const N: usize = 44;
const K: usize = 200;

/// Returns the same device with different facts.
fn with(host: &Host, change: impl FnOnce(&mut Caps)) -> Host {
    let mut caps = host.kernels().caps().clone();
    change(&mut caps);
    let (info, device) = (host.adapter_info().clone(), host.device().clone());
    Host::with_caps(info, device, host.queue().clone(), &caps).unwrap()
}

fn multiply(host: &Host, weights: &DeviceWeights, m: u32, schedule: Schedule) -> Vec<u32> {
    let spec = MatmulSpec::of(m, weights);
    let plan = block_on(MatmulPlan::new(host.kernels(), &spec, Select::Pinned(schedule))).unwrap();
    assert_eq!(plan.kernel(m).texture_width > 0, weights.has_textures());
    let mut random = crate::common::Random(7);
    let x: Vec<u32> = (0..m as usize * K).map(|_| random.float().to_bits()).collect();
    let (x, y) = (host.storage(&x).unwrap(), host.storage(&vec![!0; m as usize * N]).unwrap());
    let (activations, output) = ((&x).into(), (&y).into());
    let args = MatmulArgs { activations, weights, bias: None, output };
    let bound = block_on(plan.bind(args)).unwrap();
    host.submit(|pass| bound.record(pass, m).unwrap()).unwrap();
    host.read(&y, 0, m as usize * N).unwrap()
}

fn formats() -> Vec<WeightFormat> {
    let group = Granularity::group(64).unwrap();
    let mut formats = vec![WeightFormat::f32(), WeightFormat::f16(), WeightFormat::int16(group)];
    formats.push(WeightFormat::int8(group).asymmetric());
    let mut sparse: Vec<_> = formats.iter().map(|format| format.two_four()).collect();
    formats.push(WeightFormat::int4(group));
    formats.append(&mut sparse);
    formats
}

#[test]
fn textures_change_no_bit() {
    let Some(whole) = crate::common::host() else { return };
    let small = crate::common::host_within(whole, |limits| {
        limits.max_storage_buffer_binding_size = 16 << 10;
        limits.min_storage_buffer_offset_alignment = 256;
    });
    let mut blocks = 0;
    let (rows, gemv) = (
        [
            (1, Schedule::Rows { m_tile: 1, n_tile: 4 }),
            (5, Schedule::Rows { m_tile: 4, n_tile: 2 }),
        ],
        [(3, Schedule::Gemv { lanes: 8, m_tile: 4 }), (9, Schedule::Tiled { m_tile: 32 })],
    );
    for (order, schedules) in [(RowOrder::Rows, gemv), (RowOrder::Panels, rows)] {
        for (turn, host) in [whole, &small].into_iter().enumerate() {
            // A row has 128 texels, so that most textures end within a row.
            let host = with(host, |caps| (caps.texture_extent, caps.row_order) = (200, order));
            for (i, format) in formats().into_iter().enumerate() {
                // A small binding splits half of the formats with each order of rows.
                if turn == 1 && (i + usize::from(order == RowOrder::Panels)) % 2 == 1 {
                    continue;
                }
                let packed = crate::common::random_weights(format, N, K, 3);
                let plain = block_on(DeviceWeights::upload(host.kernels(), &packed)).unwrap();
                let textured = host.textured(&plain).unwrap();
                assert_eq!(host.download(&textured).unwrap(), packed);
                // At most the last row of texels of each block is unused.
                let most = 16 * 128 * textured.blocks().len() as u64;
                assert!(textured.device_bytes() - plain.device_bytes() < most);
                blocks = blocks.max(textured.blocks().len());
                for (m, schedule) in schedules {
                    let want = multiply(&host, &plain, m, schedule);
                    let got = multiply(&host, &textured, m, schedule);
                    assert!(got == want, "{format} {order:?} {schedule}, {blocks} blocks");
                }
            }
        }
    }
    assert!(blocks > 1, "no weights were split");
}

/// The calls on slices use textures if they fit and are faster, and buffers otherwise.
#[test]
fn slices_do_without_where_they_must() {
    let Some(host) = crate::common::host() else { return };
    let format = WeightFormat::f32();
    let w: Vec<f32> = (0..N * K).map(|i| (i % 7) as f32).collect();
    let x = vec![1.0; K];
    let mut results = Vec::new();
    for (extent, has) in [(0, false), (32, false), (4096, true)] {
        let host = with(host, |caps| caps.texture_extent = extent);
        let weights = host.compress(&w, N, K, &format).unwrap();
        assert_eq!(weights.has_textures(), has);
        assert_eq!(code_textures_pay(&format, K as u32, host.kernels().caps()), extent > 0);
        assert_eq!(host.dequantize(&weights).unwrap(), w);
        results.push(host.matmul(&x, 1, &weights, None).unwrap());
    }
    assert!(results.iter().all(|y| *y == results[0]));
}

#[test]
fn what_cannot_be_is_refused() {
    let Some(host) = crate::common::host() else { return };
    let host = with(host, |caps| caps.texture_extent = 64);
    let upload = |format| {
        let packed = crate::common::random_weights(format, N, K, 3);
        block_on(DeviceWeights::upload(host.kernels(), &packed)).unwrap()
    };
    let refusal = |weights: &DeviceWeights| match host.textured(weights) {
        Err(HostError::Weights(error)) => error,
        other => panic!("{other:?}"),
    };
    // 48 or 44 rows of 224 columns of f32 fit into 64 rows of 64 texels. In f16 they do not fit
    // into 32 rows of 32.
    let f32 = upload(WeightFormat::f32());
    assert!(host.textured(&f32).is_ok());
    let tiny = with(&host, |caps| caps.texture_extent = 32);
    let (codes, _) = upload(WeightFormat::f16()).layout().bytes(N);
    let error = WeightsError::Texture { format: WeightFormat::f16(), codes, limit: 32 * 32 * 16 };
    let refused = tiny.textured(&upload(WeightFormat::f16())).unwrap_err();
    assert_eq!(refused, HostError::Weights(error));
    assert!(refused.to_string().contains("16384 bytes fit"), "{refused}");
    // Scales that do not align with blocks, and blocks of 8 bytes.
    for format in [
        WeightFormat::int8(Granularity::group(6).unwrap()),
        WeightFormat::int4(Granularity::group(32).unwrap()).two_four(),
    ] {
        let weights = upload(format);
        let WeightsError::Texture { limit: 0, .. } = refusal(&weights) else { panic!("{format}") };
        // A plan that asks for textures reads such codes from buffers.
        let spec = MatmulSpec::new(1, N as u32, K as u32, format).with_code_textures();
        let plan = block_on(MatmulPlan::new(host.kernels(), &spec, Select::Auto)).unwrap();
        assert_eq!(plan.kernel(1).texture_width, 0);
    }
    // These buffers cannot be copied.
    let own = |usage| {
        let (codes, side) = f32.layout().bytes(N);
        let buffer = |size: u64| {
            let label = None;
            let size = size.max(32);
            let d = wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false };
            host.device().create_buffer(&d)
        };
        let blocks = vec![RowBlock::new(0..N, buffer(codes).into(), buffer(side))];
        let order = host.kernels().caps().row_order;
        DeviceWeights::from_blocks(WeightFormat::f32(), N, K, order, blocks).unwrap()
    };
    let error = refusal(&own(wgpu::BufferUsages::STORAGE));
    assert_eq!(error, WeightsError::NoCopy { block: 0 });

    // The plan needs textures, but the weights have none or others.
    let f16 = upload(WeightFormat::f16());
    let spec = MatmulSpec::of(1, &f16).with_code_textures();
    let plan = block_on(MatmulPlan::new(host.kernels(), &spec, Select::Auto)).unwrap();
    let (x, y) = (host.zeros(4 * K as u64).unwrap(), host.zeros(4 * N as u64).unwrap());
    let bind = |weights: &DeviceWeights| {
        let (activations, output) = ((&x).into(), (&y).into());
        block_on(plan.bind(MatmulArgs { activations, weights, bias: None, output })).map(drop)
    };
    let error = bind(&f16).unwrap_err();
    assert_eq!(error, BindError::Textures { need: 64, have: 0 });
    assert!(error.to_string().contains("the weights have them in buffers"), "{error}");
    let wide = with(&host, |caps| caps.texture_extent = 4096).textured(&f16).unwrap();
    assert_eq!(bind(&wide), Err(BindError::Textures { need: 64, have: 2048 }));
    let textured = host.textured(&f16).unwrap();
    assert_eq!(bind(&textured), Ok(()));
    // The opposite case, for each op.
    let (need, have) = (0, 64);
    let spec = MatmulSpec::new(1, N as u32, K as u32, f16.format());
    let plan = block_on(MatmulPlan::new(host.kernels(), &spec, Select::Auto)).unwrap();
    let (activations, output) = ((&x).into(), (&y).into());
    let args = MatmulArgs { activations, weights: &textured, bias: None, output };
    assert_eq!(block_on(plan.bind(args)).map(drop), Err(BindError::Textures { need, have }));
    let y = host.zeros(4 * (N * K) as u64).unwrap();
    let spec = DequantizeSpec::new(N as u32, K as u32, f16.format());
    let plan = block_on(DequantizePlan::new(host.kernels(), &spec)).unwrap();
    let args = DequantizeArgs { weights: &textured, indices: None, output: (&y).into() };
    assert_eq!(block_on(plan.bind(args)).map(drop), Err(BindError::Textures { need, have }));
    let spec = QuantizeWeightsSpec::new(N as u32, K as u32, f16.format());
    let plan = QuantizeWeightsPlan::new(host.kernels(), &spec);
    let source = [SourceRows { at: (&y).into(), rows: N }];
    let args = QuantizeWeightsArgs { source: &source, mask: None, output: &textured };
    let bound = block_on(block_on(plan).unwrap().bind(args)).map(drop);
    assert_eq!(bound, Err(BindError::TexturesWritten));
    let spec = RepackSpec::new(N as u32, K as u32, f16.format());
    let plan = RepackPlan::new(host.kernels(), &spec);
    let (codes, [metadata, scales, zeros]) = ((&y).into(), [None; 3]);
    let args = RepackArgs { codes, metadata, scales, zeros, output: &textured };
    let bound = block_on(block_on(plan).unwrap().bind(args)).map(drop);
    assert_eq!(bound, Err(BindError::TexturesWritten));
    // Weights in textures cannot be copied again, and a caller's buffers cannot be taken over.
    assert_eq!(refusal(&textured), WeightsError::NoCopy { block: 0 });
    let (order, blocks) = (textured.layout().order, textured.blocks().to_vec());
    let taken = DeviceWeights::from_blocks(f16.format(), N, K, order, blocks).map(drop);
    assert_eq!(taken, Err(WeightsError::OwnTexture { block: 0 }));
}
