//! Measured schedules as JSON, so that they are measured once.

use super::{Decoder, Problem, Scaling, Schedule, Tuning, TuningKey, applies};
use crate::format::{CodeType, Offset, ScaleType};
use crate::gpu::Caps;
use serde::{Deserialize, Serialize};

/// The reason why a tuning file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadTuning {
    /// The file does not exist or cannot be read.
    #[error("{0}")]
    Unreadable(std::io::Error),
    /// The file is larger than any tuning.
    #[error("it holds more than {0} bytes")]
    TooLarge(u64),
    /// The file is not a tuning in JSON. It may be truncated.
    #[error("it is no tuning file ({0})")]
    Json(serde_json::Error),
    /// The tuning was measured on another adapter or driver, or by another version of this crate.
    #[error("it was measured on another {what} (`{there}`, here it is `{here}`)")]
    OtherKey {
        /// `adapter`, `backend`, `driver` or `version of lowbit`.
        what: &'static str,
        /// The value in the file.
        there: String,
        /// The value of this program, adapter or driver.
        here: String,
    },
    /// An entry has a value that is unknown or does not apply.
    #[error("entry {index} has {what} `{value}`")]
    Entry {
        /// The index of the entry, from 0.
        index: usize,
        /// The kind of the value that is wrong.
        what: &'static str,
        /// The value.
        value: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: String,
    adapter: String,
    backend: String,
    driver: String,
    entries: Vec<Entry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    unmeasured: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    weights: String,
    sparse: bool,
    scaling: String,
    offset: String,
    scales: String,
    textures: bool,
    activations: String,
    m: u32,
    n: u32,
    k: u32,
    schedule: String,
}

const SCALINGS: [(Scaling, &str); 7] = [
    (Scaling::None, "none"),
    (Scaling::Row, "row"),
    (Scaling::Aligned, "aligned"),
    (Scaling::Block(1), "block"),
    (Scaling::Block(2), "halfblock"),
    (Scaling::Block(0), "blocks"),
    (Scaling::General, "general"),
];

impl Tuning {
    /// Reads what [`to_json`](Self::to_json) wrote, for this adapter's key and a device's facts.
    ///
    /// # Errors
    /// Returns [`BadTuning`] if the text is damaged, comes from another adapter, driver or version
    /// of lowbit, or has an entry that is not valid or whose schedule the device cannot run. A
    /// caller then goes on with [`Tuning::default`].
    pub fn from_json(text: &[u8], key: &TuningKey, caps: &Caps) -> Result<Self, BadTuning> {
        parse(text, key, caps)
    }

    /// Returns the tuning as JSON, ending in a line break.
    pub fn to_json(&self) -> String {
        let name =
            |scaling| SCALINGS.iter().find(|(of, _)| *of == scaling).map_or("", |(_, name)| name);
        let TuningKey { adapter, backend, driver, version } = self.key.clone();
        let entry = |(problem, schedule): &(Problem, Schedule)| Entry {
            weights: problem.decoder.element.name().into(),
            sparse: problem.decoder.sparse,
            scaling: name(problem.scaling).into(),
            offset: problem.offset.part().into(),
            scales: problem.scale_type.suffix().into(),
            textures: problem.textures,
            activations: problem.activations.to_string(),
            m: problem.m,
            n: problem.n,
            k: problem.k,
            schedule: schedule.to_string(),
        };
        let entries = self.entries.iter().map(entry).collect();
        let unmeasured = self.unmeasured.iter().map(entry).collect();
        let file = File { version, adapter, backend, driver, entries, unmeasured };
        // Strings, integers and booleans always serialize.
        let mut text = serde_json::to_string_pretty(&file).unwrap_or_default();
        text.push('\n');
        text
    }
}

fn parse(text: &[u8], key: &TuningKey, caps: &Caps) -> Result<Tuning, BadTuning> {
    let file: File = serde_json::from_slice(text).map_err(BadTuning::Json)?;
    for (what, there, here) in [
        ("version of lowbit", &file.version, &key.version),
        ("adapter", &file.adapter, &key.adapter),
        ("backend", &file.backend, &key.backend),
        ("driver", &file.driver, &key.driver),
    ] {
        if there != here {
            return Err(BadTuning::OtherKey { what, there: there.clone(), here: here.clone() });
        }
    }
    let read = |entries: &[Entry]| {
        let entries = (0..).zip(entries).map(|(index, entry)| {
            read_entry(entry, caps).map_err(|(what, value)| BadTuning::Entry { index, what, value })
        });
        entries.collect::<Result<Vec<_>, _>>()
    };
    let (entries, unmeasured) = (read(&file.entries)?, read(&file.unmeasured)?);
    Ok(Tuning { key: key.clone(), entries, unmeasured })
}

fn read_entry(entry: &Entry, caps: &Caps) -> Result<(Problem, Schedule), (&'static str, String)> {
    let unknown = |what, value: &str| (what, value.to_string());
    let element = CodeType::ALL.into_iter().find(|element| element.name() == entry.weights);
    let offset = Offset::ALL.into_iter().find(|offset| offset.part() == entry.offset);
    let scale_type = ScaleType::ALL.into_iter().find(|scales| scales.suffix() == entry.scales);
    let scaling = SCALINGS.iter().find(|(_, name)| *name == entry.scaling);
    let problem = Problem {
        decoder: Decoder {
            element: element.ok_or_else(|| unknown("unknown weights", &entry.weights))?,
            sparse: entry.sparse,
        },
        scaling: scaling.ok_or_else(|| unknown("an unknown scaling", &entry.scaling))?.0,
        offset: offset.ok_or_else(|| unknown("an unknown offset", &entry.offset))?,
        scale_type: scale_type.ok_or_else(|| unknown("unknown scales", &entry.scales))?,
        textures: entry.textures,
        activations: (entry.activations.parse())
            .map_err(|_| unknown("unknown activations", &entry.activations))?,
        m: entry.m,
        n: entry.n,
        k: entry.k,
    };
    if [entry.m, entry.n, entry.k].contains(&0) {
        let shape = format!("{}x{}x{}", entry.m, entry.n, entry.k);
        return Err(("an empty shape", shape));
    }
    let schedule: Schedule =
        entry.schedule.parse().map_err(|_| unknown("an unknown schedule", &entry.schedule))?;
    if !applies(schedule, problem.activations, entry.k, caps) {
        return Err(unknown("a schedule that does not apply,", &entry.schedule));
    }
    Ok((problem, schedule))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Granularity, WeightFormat};
    use crate::gpu::AdapterClass;
    use crate::ops::FloatType;
    use crate::ops::MatmulSpec;

    fn caps() -> Caps {
        // Adapters of this class have every schedule.
        Caps::from_limits(AdapterClass::Cpu, &wgpu::Limits::defaults())
    }

    fn key() -> TuningKey {
        let of = |name: &str| name.to_string();
        TuningKey {
            adapter: of("A \"1\" [10de:2206]"),
            backend: of("Vulkan"),
            driver: of("1.2"),
            version: of("0.1.0"),
        }
    }

    /// Returns every element, scaling, type of X and schedule.
    fn tuning() -> Tuning {
        let group = |g| Granularity::group(g).unwrap();
        let formats = [
            WeightFormat::f32(),
            WeightFormat::f16(),
            WeightFormat::int16(Granularity::Tensor),
            WeightFormat::int8(group(33)).two_four(),
            WeightFormat::int4(group(64)).asymmetric(),
        ];
        let mut entries = Vec::new();
        for format in formats {
            for schedule in Schedule::all(4096) {
                for float in [FloatType::F32, FloatType::F16] {
                    let spec = MatmulSpec::new(8, 640, 4096, format).with_activations(float);
                    entries.push((Problem::new(&spec, 8), schedule));
                }
            }
        }
        Tuning::new(key(), entries)
    }

    fn text() -> String {
        tuning().to_json()
    }

    fn bad(text: &str) -> String {
        parse(text.as_bytes(), &key(), &caps()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_written_is_read() {
        let whole = tuning();
        let unmeasured = whole.entries[..3].to_vec();
        let partial = Tuning { unmeasured, ..whole.clone() };
        assert!(partial.to_json().contains("\"unmeasured\": ["));
        for tuning in [whole, partial, Tuning::new(key(), Vec::new())] {
            let text = tuning.to_json();
            assert_eq!(Tuning::from_json(text.as_bytes(), &key(), &caps()).unwrap(), tuning);
        }
    }

    #[test]
    fn a_truncated_file_is_ignored() {
        let mut small = tuning();
        small.entries.truncate(2);
        let text = small.to_json().into_bytes();
        assert!(parse(&text, &key(), &caps()).is_ok());
        // All but the last line break is needed.
        for length in 0..text.len() - 1 {
            let error = parse(&text[..length], &key(), &caps()).unwrap_err();
            assert!(matches!(error, BadTuning::Json(_)), "{length}: {error}");
        }
    }

    #[test]
    fn another_key_is_ignored() {
        let text = text();
        let other = |change: fn(&mut TuningKey)| {
            let mut key = key();
            change(&mut key);
            parse(text.as_bytes(), &key, &caps()).unwrap_err().to_string()
        };
        assert!(other(|key| key.version += ".1").contains("another version of lowbit"));
        assert!(other(|key| key.adapter.clear()).contains("another adapter"));
        assert!(other(|key| key.backend.push(' ')).contains("another backend"));
        assert!(other(|key| key.driver = "1.3".into()).contains("`1.2`, here it is `1.3`"));
    }

    #[test]
    fn nonsense_is_ignored() {
        let text = text();
        for (from, to, message) in [
            ("gemv_m4_l32", "gemv_m4_l31", "does not apply, `gemv_m4_l31`"),
            ("gemv_m4_l32", "gemv_m4_l16", "does not apply, `gemv_m4_l16`"),
            ("rows_m4_n2", "rows_m4_n4", "does not apply, `rows_m4_n4`"),
            ("tiled_32x64", "tiled_32x65", "an unknown schedule `tiled_32x65`"),
            ("tiled_32x64", "", "an unknown schedule ``"),
            ("\"int8\"", "\"int9\"", "has unknown weights `int9`"),
            ("\"general\"", "\"General\"", "an unknown scaling `General`"),
            ("\"activations\": \"f16\"", "\"activations\": \"f64\"", "unknown activations `f64`"),
            ("\"k\": 4096", "\"k\": 0", "an empty shape `8x640x0`"),
            ("\"k\": 4096", "\"k\": -1", "no tuning file"),
            ("\"k\": 4096", "\"k\": 4294967296", "no tuning file"),
            ("\"k\": 4096", "\"k\": null", "no tuning file"),
            ("\"sparse\": false,", "", "no tuning file"),
            ("\"sparse\"", "\"spares\"", "no tuning file"),
            ("\"entries\"", "\"more\": 1, \"entries\"", "no tuning file"),
        ] {
            assert!(text.contains(from), "{from}");
            let message_is = bad(&text.replace(from, to));
            assert!(message_is.contains(message), "{from} → {to}: {message_is}");
        }
        for garbage in ["", "{}", "[]", "null", "\0\0\0\0", "lowbit", "{\"entries\":[[[[[[[["] {
            assert!(bad(garbage).contains("no tuning file"), "{garbage}");
        }
        assert!(bad(&format!("{text}{text}")).contains("no tuning file"));
        assert!(bad(&"[".repeat(1 << 20)).contains("no tuning file"));
        assert!(parse(&[0xff; 64], &key(), &caps()).is_err());
        // The file does not apply to a device with less workgroup memory.
        let small = Caps { max_workgroup_memory: 4 << 10, ..caps() };
        let error = parse(text.as_bytes(), &key(), &small).unwrap_err().to_string();
        assert!(error.contains("does not apply, `tiled_32x64`"), "{error}");
    }
}
