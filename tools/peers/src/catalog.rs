//! What is compared: shapes, formats, peers, and which format of a peer stands for which.

use protocol::Activations::{self, F16, F32, Int8};
use serde::Serialize;

/// Rows of X, rows of W, columns of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

const fn shape(m: usize, n: usize, k: usize) -> Shape {
    Shape { m, n, k }
}

pub const SHAPES: [Shape; 6] = [
    shape(1, 4096, 4096),
    shape(1, 11008, 4096),
    shape(8, 4096, 4096),
    shape(32, 4096, 4096),
    shape(128, 1024, 1024),
    shape(128, 4096, 4096),
];

/// The shapes of `--quick`.
pub const QUICK: [Shape; 2] = [SHAPES[0], SHAPES[4]];

/// Every format here divides K into groups of up to 256.
const K_STEP: usize = 256;

impl std::str::FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sizes: Result<Vec<usize>, _> = text.split('x').map(str::parse).collect();
        match sizes.as_deref() {
            Ok(&[m, n, k]) if m > 0 && n > 0 && n % 8 == 0 && k > 0 && k % K_STEP == 0 => {
                Ok(shape(m, n, k))
            }
            _ => Err(format!(
                "a shape is MxNxK, as in 1x4096x4096, with N a multiple of 8 and K of {K_STEP}"
            )),
        }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}x{}", self.m, self.n, self.k)
    }
}

/// Formats of W.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
pub enum Format {
    #[serde(rename = "f32")]
    F32,
    #[serde(rename = "f16")]
    F16,
    #[serde(rename = "int8-g32")]
    #[value(name = "int8-g32")]
    Int8G32,
    #[serde(rename = "int8-g128")]
    #[value(name = "int8-g128")]
    Int8G128,
    #[serde(rename = "int8-channel")]
    #[value(name = "int8-channel")]
    Int8Channel,
    #[serde(rename = "int4-g32")]
    #[value(name = "int4-g32")]
    Int4G32,
    #[serde(rename = "int4-g128")]
    #[value(name = "int4-g128")]
    Int4G128,
    #[serde(rename = "int4-g128-zp")]
    #[value(name = "int4-g128-zp")]
    Int4G128Zp,
    #[serde(rename = "2:4-f32")]
    #[value(name = "2:4-f32")]
    SparseF32,
    #[serde(rename = "2:4-f16")]
    #[value(name = "2:4-f16")]
    SparseF16,
    #[serde(rename = "2:4-int8")]
    #[value(name = "2:4-int8")]
    SparseInt8,
    #[serde(rename = "2:4-int4")]
    #[value(name = "2:4-int4")]
    SparseInt4,
}

impl Format {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8G32 => "int8-g32",
            Self::Int8G128 => "int8-g128",
            Self::Int8Channel => "int8-channel",
            Self::Int4G32 => "int4-g32",
            Self::Int4G128 => "int4-g128",
            Self::Int4G128Zp => "int4-g128-zp",
            Self::SparseF32 => "2:4-f32",
            Self::SparseF16 => "2:4-f16",
            Self::SparseInt8 => "2:4-int8",
            Self::SparseInt4 => "2:4-int4",
        }
    }

    /// lowbit's own name of it.
    pub fn lowbit(self) -> &'static str {
        match self {
            Self::Int4G128Zp => "int4-g128-asym",
            Self::SparseF32 => "2:4+f32",
            Self::SparseF16 => "2:4+f16",
            Self::SparseInt8 => "2:4+int8-channel",
            Self::SparseInt4 => "2:4+int4-g128",
            dense => dense.name(),
        }
    }

    /// The width class: formats of one class compete with each other.
    pub fn class(self) -> &'static str {
        match self {
            Self::F32 => "32-bit",
            Self::F16 => "16-bit",
            Self::Int8G32 | Self::Int8G128 | Self::Int8Channel => "8-bit",
            Self::Int4G32 | Self::Int4G128 | Self::Int4G128Zp => "4-bit",
            Self::SparseF32 => "2:4 32-bit",
            Self::SparseF16 => "2:4 16-bit",
            Self::SparseInt8 => "2:4 8-bit",
            Self::SparseInt4 => "2:4 4-bit",
        }
    }

    /// Formats of lowbit that a user would have without this one.
    pub fn twins(self) -> &'static [Format] {
        match self {
            Self::F32 => &[],
            Self::F16 => &[Self::F32],
            Self::SparseF32 => &[Self::F32],
            Self::SparseF16 => &[Self::F16],
            Self::SparseInt8 => &[Self::Int8Channel],
            Self::SparseInt4 => &[Self::Int4G128],
            _ => &[Self::F16, Self::F32],
        }
    }
}

/// Where a peer computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    Gpu,
    Cpu,
}

/// How a peer is started.
#[derive(Clone, Copy, Debug)]
pub enum Program {
    /// A binary beside this one, with one argument.
    Binary(&'static str, &'static str),
    /// A file of `python/`, with one argument.
    Python(&'static str, &'static str),
    /// A Python program, whose argument is the folder of ggml's libraries.
    Ggml(&'static str),
    /// A Python program, whose arguments are the folder of ggml's libraries and the device. It needs no packages.
    Llama(&'static str),
}

/// A format, what the peer calls its own nearest to it, and how it makes products.
pub type PeerCase = (Format, &'static str, Activations);

/// What lowbit is compared with.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    pub name: &'static str,
    pub device: Device,
    pub program: Program,
    pub cases: &'static [PeerCase],
}

/// lowbit itself; it has every format.
pub const OURS: Peer = Peer {
    name: "lowbit",
    device: Device::Gpu,
    program: Program::Binary("peer-lowbit", ""),
    cases: &[],
};

pub const PEERS: [Peer; 7] = [
    Peer {
        name: "onnxruntime-webgpu",
        device: Device::Gpu,
        program: Program::Python("onnxruntime_peer.py", "webgpu"),
        cases: &[
            (Format::F32, "MatMul", F32),
            (Format::F16, "MatMul", F16),
            (Format::Int8G32, "MatMulNBits 8 32", F32),
            (Format::Int8G128, "MatMulNBits 8 128", F32),
            (Format::Int8Channel, "MatMulNBits 8 row", F32),
            (Format::Int4G32, "MatMulNBits 4 32", F32),
            (Format::Int4G128, "MatMulNBits 4 128", F32),
            (Format::Int4G128Zp, "MatMulNBits 4 128 zp", F32),
            (Format::Int8G32, "MatMulNBits 8 32", Int8),
            (Format::Int8G128, "MatMulNBits 8 128", Int8),
            (Format::Int8Channel, "MatMulNBits 8 row", Int8),
            (Format::Int4G32, "MatMulNBits 4 32", Int8),
            (Format::Int4G128, "MatMulNBits 4 128", Int8),
            (Format::Int4G128Zp, "MatMulNBits 4 128 zp", Int8),
        ],
    },
    Peer {
        name: "ggml-vulkan",
        device: Device::Gpu,
        program: Program::Ggml("ggml_peer.py"),
        cases: &[
            (Format::F32, "f32", F32),
            (Format::F16, "f16", F32),
            (Format::Int8G32, "q8_0", F32),
            (Format::Int4G32, "q4_0", F32),
            (Format::Int4G128Zp, "q4_K", F32),
        ],
    },
    Peer {
        name: "web-rwkv",
        device: Device::Gpu,
        program: Program::Binary("peer-web-rwkv", ""),
        cases: &[
            (Format::F16, "fp16", F32),
            (Format::Int8G128, "int8", F32),
            (Format::Int4G128, "nf4", F32),
        ],
    },
    Peer {
        name: "boostr",
        device: Device::Gpu,
        program: Program::Binary("peer-boostr", "boostr"),
        cases: &[
            (Format::Int8G32, "q8_0", F32),
            (Format::Int4G32, "q4_0", F32),
            (Format::Int4G128Zp, "awq g128", F32),
        ],
    },
    Peer {
        name: "numr",
        device: Device::Gpu,
        program: Program::Binary("peer-boostr", "numr"),
        cases: &[(Format::F32, "dense", F32), (Format::SparseF32, "2:4", F32)],
    },
    Peer {
        name: "onnxruntime-cpu",
        device: Device::Cpu,
        program: Program::Python("onnxruntime_peer.py", "cpu"),
        cases: &[
            (Format::F32, "MatMul", F32),
            (Format::Int8G32, "MatMulNBits 8 32", F32),
            (Format::Int8G128, "MatMulNBits 8 128", F32),
            (Format::Int4G32, "MatMulNBits 4 32", F32),
            (Format::Int4G128, "MatMulNBits 4 128", F32),
            (Format::Int4G128Zp, "MatMulNBits 4 128 zp", F32),
            (Format::Int8G32, "MatMulNBits 8 32", Int8),
            (Format::Int8G128, "MatMulNBits 8 128", Int8),
            (Format::Int8Channel, "DynamicQuantizeMatMul", Int8),
            (Format::Int4G32, "MatMulNBits 4 32", Int8),
            (Format::Int4G128, "MatMulNBits 4 128", Int8),
            (Format::Int4G128Zp, "MatMulNBits 4 128 zp", Int8),
        ],
    },
    Peer {
        name: "candle-cpu",
        device: Device::Cpu,
        program: Program::Binary("peer-candle", ""),
        cases: &[
            (Format::F32, "f32", F32),
            (Format::F16, "f16", F16),
            (Format::Int8G32, "q8_0", Int8),
            (Format::Int4G32, "q4_0", Int8),
            (Format::Int4G128Zp, "q4_K", Int8),
        ],
    },
];

/// What runs a language model.
pub const MODEL_PEERS: [Peer; 3] = [
    Peer {
        name: "llama.cpp-vulkan",
        device: Device::Gpu,
        program: Program::Llama("llama_peer.py"),
        cases: &[],
    },
    Peer {
        name: "llama.cpp-cpu",
        device: Device::Cpu,
        program: Program::Llama("llama_peer.py"),
        cases: &[],
    },
    Peer {
        name: "candle-cpu",
        device: Device::Cpu,
        program: Program::Binary("peer-candle-model", ""),
        cases: &[],
    },
];

/// A peer by its name.
pub fn peer(name: &str) -> Option<Peer> {
    PEERS.into_iter().find(|peer| peer.name == name)
}

/// A peer that runs models, by its name.
pub fn model_peer(name: &str) -> Option<Peer> {
    MODEL_PEERS.into_iter().find(|peer| peer.name == name)
}
