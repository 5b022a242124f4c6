//! The form in which [`Statistics`] are stored in a file, and the checks on reading them.

use super::{
    Axis, ChannelStatistics, Ends, Fault, Histogram, NotFinite, Observer, Statistics, exponent_of,
    per_row,
};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize};

/// The version that is written. No other version is read.
const VERSION: u32 = 1;

/// The fields of the file. Each list has one item per range.
#[derive(Serialize, Default)]
pub(super) struct Saved {
    version: u32,
    layer: String,
    columns: u64,
    axis: String,
    bins: u64,
    momentum: f64,
    rows: u64,
    batches: u64,
    refused: u64,
    not_finite: Option<SavedFault>,
    min: Vec<f32>,
    max: Vec<f32>,
    first_min: Vec<f32>,
    first_max: Vec<f32>,
    average_min: Vec<f64>,
    average_max: Vec<f64>,
    abs_sum: Vec<f64>,
    width_exponent: Vec<i32>,
    counts: Vec<Vec<u64>>,
}

#[derive(Serialize, DeriveDeserialize)]
#[serde(deny_unknown_fields)]
struct SavedFault {
    batch: u64,
    row: u64,
    column: u64,
    nan: u64,
    infinite: u64,
}

const FIELDS: [&str; 19] = [
    "version",
    "layer",
    "columns",
    "axis",
    "bins",
    "momentum",
    "rows",
    "batches",
    "refused",
    "not_finite",
    "min",
    "max",
    "first_min",
    "first_max",
    "average_min",
    "average_max",
    "abs_sum",
    "width_exponent",
    "counts",
];

/// This is written by hand so that an error names the field it is about.
impl<'de> Deserialize<'de> for Saved {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(SavedVisitor)
    }
}

struct SavedVisitor;

impl<'de> Visitor<'de> for SavedVisitor {
    type Value = Saved;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object with calibration statistics")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Saved, A::Error> {
        let mut saved = Saved::default();
        let mut seen = [false; FIELDS.len()];
        while let Some(name) = map.next_key::<String>()? {
            let Some(at) = FIELDS.iter().position(|field| *field == name) else {
                return Err(A::Error::unknown_field(&name, &FIELDS));
            };
            if std::mem::replace(&mut seen[at], true) {
                return Err(A::Error::duplicate_field(FIELDS[at]));
            }
            let read = match FIELDS[at] {
                "version" => map.next_value().map(|value| saved.version = value),
                "layer" => map.next_value().map(|value| saved.layer = value),
                "columns" => map.next_value().map(|value| saved.columns = value),
                "axis" => map.next_value().map(|value| saved.axis = value),
                "bins" => map.next_value().map(|value| saved.bins = value),
                "momentum" => map.next_value().map(|value| saved.momentum = value),
                "rows" => map.next_value().map(|value| saved.rows = value),
                "batches" => map.next_value().map(|value| saved.batches = value),
                "refused" => map.next_value().map(|value| saved.refused = value),
                "not_finite" => map.next_value().map(|value| saved.not_finite = value),
                "min" => map.next_value().map(|value| saved.min = value),
                "max" => map.next_value().map(|value| saved.max = value),
                "first_min" => map.next_value().map(|value| saved.first_min = value),
                "first_max" => map.next_value().map(|value| saved.first_max = value),
                "average_min" => map.next_value().map(|value| saved.average_min = value),
                "average_max" => map.next_value().map(|value| saved.average_max = value),
                "abs_sum" => map.next_value().map(|value| saved.abs_sum = value),
                "width_exponent" => map.next_value().map(|value| saved.width_exponent = value),
                _ => map.next_value().map(|value| saved.counts = value),
            };
            read.map_err(|error| A::Error::custom(format_args!("`{name}`: {error}")))?;
        }
        match seen.iter().position(|seen| !seen) {
            Some(at) => Err(A::Error::missing_field(FIELDS[at])),
            None => Ok(saved),
        }
    }
}

impl From<Statistics> for Saved {
    fn from(from: Statistics) -> Self {
        let Statistics { observer, rows, batches, refused, fault, channels } = from;
        let f32s = |f: fn(&ChannelStatistics) -> f32| channels.iter().map(f).collect();
        let f64s = |f: fn(&ChannelStatistics) -> f64| channels.iter().map(f).collect();
        Self {
            version: VERSION,
            columns: observer.columns as u64,
            axis: axis_name(observer.axis).into(),
            bins: observer.bins as u64,
            momentum: observer.momentum,
            layer: observer.layer,
            rows,
            batches,
            refused,
            not_finite: fault.map(|Fault { batch, first }| {
                let NotFinite { nan, infinite, row, column } = first;
                SavedFault { batch, row, column, nan, infinite }
            }),
            min: f32s(|c| c.ends.min),
            max: f32s(|c| c.ends.max),
            first_min: f32s(|c| c.first.min),
            first_max: f32s(|c| c.first.max),
            average_min: f64s(|c| c.average.min),
            average_max: f64s(|c| c.average.max),
            abs_sum: f64s(|c| c.abs_sum),
            width_exponent: channels.iter().map(|c| c.histogram.width_exponent()).collect(),
            counts: channels.into_iter().map(|c| c.histogram.counts().to_vec()).collect(),
        }
    }
}

fn axis_name(axis: Axis) -> &'static str {
    match axis {
        Axis::Tensor => "tensor",
        Axis::Channel => "channel",
    }
}

/// Names the invalid field and says why it is invalid.
#[derive(Debug, thiserror::Error)]
#[error("`{field}`: {why}")]
pub(super) struct BadField {
    field: &'static str,
    why: String,
}

fn bad<T>(field: &'static str, why: impl Into<String>) -> Result<T, BadField> {
    Err(BadField { field, why: why.into() })
}

impl TryFrom<Saved> for Statistics {
    type Error = BadField;

    fn try_from(saved: Saved) -> Result<Self, BadField> {
        if saved.version != VERSION {
            return bad(
                "version",
                format!("it is {}, but only {VERSION} can be read", saved.version),
            );
        }
        let Some(axis) =
            [Axis::Tensor, Axis::Channel].into_iter().find(|axis| axis_name(*axis) == saved.axis)
        else {
            return bad(
                "axis",
                format!("it is `{}`, but must be `tensor` or `channel`", saved.axis),
            );
        };
        let (Ok(columns), Ok(bins)) = (saved.columns.try_into(), saved.bins.try_into()) else {
            return bad("columns", "it does not fit into this machine's address space");
        };
        let momentum = saved.momentum;
        let observer = Observer { layer: saved.layer.clone(), columns, axis, bins, momentum };
        if let Err(error) = observer.check() {
            let field = if Histogram::check_bins(bins).is_err() { "bins" } else { "momentum" };
            return bad(field, error.to_string());
        }
        let Some(values) = saved.rows.checked_mul(per_row(&observer)) else {
            return bad("rows", "there are more than 2^64 values");
        };
        if saved.batches > saved.rows || (saved.batches == 0) != (saved.rows == 0) {
            return bad(
                "batches",
                format!("{} batches cannot have {} rows", saved.batches, saved.rows),
            );
        }
        let channels = saved.channels(&observer, values)?;
        let fault = saved.fault(&observer)?;
        let Saved { rows, batches, refused, .. } = saved;
        Ok(Self { observer, rows, batches, refused, fault, channels })
    }
}

impl Saved {
    fn fault(&self, observer: &Observer) -> Result<Option<Fault>, BadField> {
        let Some(all) = self.batches.checked_add(self.refused) else {
            return bad("refused", "there are more than 2^64 batches");
        };
        let Some(SavedFault { batch, row, column, nan, infinite }) = self.not_finite else {
            return match self.refused {
                0 => Ok(None),
                _ => bad("not_finite", "it is missing, although batches were refused"),
            };
        };
        let found = nan.checked_add(infinite);
        if found.is_none_or(|found| found < self.refused)
            || self.refused == 0
            || batch >= all
            || column >= observer.columns as u64
        {
            return bad("not_finite", "it does not match the number of refused batches or columns");
        }
        Ok(Some(Fault { batch, first: NotFinite { nan, infinite, row, column } }))
    }

    fn channels(
        &self,
        observer: &Observer,
        values: u64,
    ) -> Result<Vec<ChannelStatistics>, BadField> {
        let need = observer.ranges();
        for (field, have) in [
            ("min", self.min.len()),
            ("max", self.max.len()),
            ("first_min", self.first_min.len()),
            ("first_max", self.first_max.len()),
            ("average_min", self.average_min.len()),
            ("average_max", self.average_max.len()),
            ("abs_sum", self.abs_sum.len()),
            ("width_exponent", self.width_exponent.len()),
            ("counts", self.counts.len()),
        ] {
            if have != need {
                return bad(field, format!("it has {have} items, but there are {need} ranges"));
            }
        }
        let mut channels = Vec::with_capacity(need);
        for at in 0..need {
            let ends = Ends { min: self.min[at], max: self.max[at] };
            let first = Ends { min: self.first_min[at], max: self.first_max[at] };
            let average = Ends { min: self.average_min[at], max: self.average_max[at] };
            let abs_sum = self.abs_sum[at];
            check_numbers(ends, first, average, abs_sum, self.batches == 0)?;
            let histogram = self.histogram(at, observer.bins, values)?;
            channels.push(ChannelStatistics { ends, first, average, abs_sum, histogram });
        }
        Ok(channels)
    }

    fn histogram(&self, at: usize, bins: usize, values: u64) -> Result<Histogram, BadField> {
        let counts = &self.counts[at];
        if counts.len() != 2 * bins {
            return bad("counts", format!("it has {} items for 2·{bins} bins", counts.len()));
        }
        let sum = counts.iter().try_fold(0u64, |sum, &count| sum.checked_add(count));
        if bins > 0 && sum != Some(values) {
            return bad("counts", format!("its sum is not the number of values, {values}"));
        }
        let width = self.width_exponent[at];
        match Histogram::from_counts(width, counts.clone()) {
            Ok(histogram) => {
                let (min, max) = (exponent_of(self.min[at]), exponent_of(self.max[at]));
                let top = if bins == 0 { 1 } else { min.max(max) };
                // A histogram may have wider bins than its values need.
                if histogram.top() >= top {
                    Ok(histogram)
                } else {
                    bad("width_exponent", format!("{width} is too small for min and max"))
                }
            }
            Err(error) => bad("width_exponent", error.to_string()),
        }
    }
}

fn check_numbers(
    ends: Ends<f32>,
    first: Ends<f32>,
    average: Ends<f64>,
    abs_sum: f64,
    empty: bool,
) -> Result<(), BadField> {
    for (field, value) in [
        ("min", f64::from(ends.min)),
        ("max", f64::from(ends.max)),
        ("first_min", f64::from(first.min)),
        ("first_max", f64::from(first.max)),
        ("average_min", average.min),
        ("average_max", average.max),
        ("abs_sum", abs_sum),
    ] {
        if !value.is_finite() || (empty && value != 0.0) {
            return bad(field, format!("{value} is not a valid value"));
        }
    }
    if ends.min > ends.max {
        return bad("min", format!("{} is greater than the maximum {}", ends.min, ends.max));
    }
    if first.min > first.max || first.min < ends.min || first.max > ends.max {
        let (min, max) = (first.min, first.max);
        return bad("first_min", format!("{min}…{max} is not a range within min…max"));
    }
    if average.min > average.max {
        return bad(
            "average_min",
            format!("{} is greater than the average maximum {}", average.min, average.max),
        );
    }
    if abs_sum < 0.0 { bad("abs_sum", format!("{abs_sum} is negative")) } else { Ok(()) }
}
