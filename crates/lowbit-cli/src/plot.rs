//! Plots the times of a bench.

use crate::error::CliError;
use lowbit::conformance::Timing;
use lowbit::ops::matmul::first_part;
use lowbit_models::checkpoint::AtomicFile;
use plotters::prelude::*;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A file for a plot, which is opened before the work.
pub struct Plot {
    file: AtomicFile,
    path: PathBuf,
}

fn failed(path: &Path) -> CliError {
    CliError::new(format!("cannot write the plot {}", path.display()))
}

impl Plot {
    /// Opens the file.
    pub fn open(path: &Path) -> Result<Self, CliError> {
        let file = AtomicFile::create(path).map_err(|e| failed(path).because(e))?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Writes an SVG that shows the time of each matmul per row of X over the rows of X. There is a line
    /// for each format, and for each schedule if several are pinned. Both axes are logarithmic.
    pub fn finish(mut self, title: &str, rows: &[Timing]) -> Result<(), CliError> {
        let svg = draw(title, &curves(rows))
            .map_err(|e| failed(&self.path).because(std::io::Error::other(e)))?;
        self.file.write_all(svg.as_bytes()).map_err(|e| failed(&self.path).because(e))?;
        self.file.commit().map_err(|e| failed(&self.path).because(e))
    }
}

/// A name, and points of rows of X and milliseconds per row of X.
type Curve = (String, Vec<(f64, f64)>);

fn curves(rows: &[Timing]) -> Vec<Curve> {
    let matmuls: Vec<_> =
        rows.iter().filter(|row| row.m > 0 && row.n > 0 && row.ms > 0.0).collect();
    let mut curves: Vec<Curve> = Vec::new();
    let problem = |row: &Timing| (row.weights.clone(), row.m, row.n, row.k);
    for row in &matmuls {
        let (n, k) = (row.n, row.k);
        // If a format and shape appears again, each row has a pinned schedule of its own.
        let schedule = first_part(&row.kernel);
        let name = match matmuls.iter().filter(|other| problem(other) == problem(row)).count() {
            1 => format!("{} {n}×{k}", row.weights),
            _ => format!("{} {n}×{k} {schedule}", row.weights),
        };
        let point = (row.m as f64, row.ms / row.m as f64);
        match curves.iter_mut().find(|(known, _)| *known == name) {
            Some((_, points)) => points.push(point),
            None => curves.push((name, vec![point])),
        }
    }
    for (_, points) in &mut curves {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    curves
}

fn draw(title: &str, curves: &[Curve]) -> Result<String, String> {
    let mut svg = String::new();
    let points = || curves.iter().flat_map(|(_, points)| points);
    // The span is a little larger than the values, so that the axes are not empty for one point.
    let span = |values: &mut dyn Iterator<Item = f64>| {
        let (low, high) = values.fold((f64::MAX, 0.0f64), |(l, h), v| (l.min(v), h.max(v)));
        if low <= high { (low / 1.2, high * 1.2) } else { (0.5, 2.0) }
    };
    let (m_low, m_high) = span(&mut points().map(|point| point.0));
    let (ms_low, ms_high) = span(&mut points().map(|point| point.1));
    let text = |e: &dyn std::fmt::Display| e.to_string();
    {
        let root = SVGBackend::with_string(&mut svg, (900, 560)).into_drawing_area();
        root.fill(&WHITE).map_err(|e| text(&e))?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 16))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d((m_low..m_high).log_scale(), (ms_low..ms_high).log_scale())
            .map_err(|e| text(&e))?;
        chart
            .configure_mesh()
            .x_desc("rows of X")
            .y_desc("milliseconds per row of X")
            .draw()
            .map_err(|e| text(&e))?;
        for (i, (name, points)) in curves.iter().enumerate() {
            let color = Palette99::pick(i).to_rgba();
            let line = LineSeries::new(points.iter().copied(), color.stroke_width(2));
            let series = chart.draw_series(line.point_size(3)).map_err(|e| text(&e))?;
            series.label(name).legend(move |(x, y)| {
                PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2))
            });
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK)
            .draw()
            .map_err(|e| text(&e))?;
        root.present().map_err(|e| text(&e))?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(weights: &str, m: usize, ms: f64, kernel: &str) -> Timing {
        Timing {
            op: "matmul".into(),
            weights: weights.into(),
            activations: "f32".into(),
            m,
            n: 64,
            k: 32,
            kernel: kernel.into(),
            ms,
            gpu_ms: None,
            unpack_ms: None,
            quantize_ms: None,
            host_ms: None,
            operations_per_second: 1.0,
            weight_bytes_per_second: 1.0,
            share_of_limit: 0.5,
        }
    }

    #[test]
    fn a_curve_a_format_and_schedule() {
        let rows = [
            timing("f32", 8, 16.0, "a.f32"),
            timing("f32", 1, 3.0, "b.f32"),
            timing("int8", 1, 2.0, "a.int8"),
            timing("int8", 1, 1.0, "b.int8"),
            timing("int8", 0, 1.0, "made"),
        ];
        let found = curves(&rows);
        let want: Vec<Curve> = vec![
            ("f32 64×32".into(), vec![(1.0, 3.0), (8.0, 2.0)]),
            ("int8 64×32 a".into(), vec![(1.0, 2.0)]),
            ("int8 64×32 b".into(), vec![(1.0, 1.0)]),
        ];
        assert_eq!(found, want);
        let svg = draw("title", &found).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("int8 64×32 b") && svg.contains("title"));
        // A single point lies inside the frame.
        let circles = |svg: &str| svg.matches("<circle").count();
        assert!(circles(&draw("one", &found[1..2]).unwrap()) > 0);
        // Without curves the chart is empty.
        assert!(draw("empty", &[]).unwrap().starts_with("<svg"));
    }
}
