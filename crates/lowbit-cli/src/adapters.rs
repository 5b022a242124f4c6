//! `lowbit adapters`: lists the adapters.

use crate::error::{CliError, printable};
use crate::report::{self, JsonArg, Report};
use crate::{Outcome, adapter};
use serde::Serialize;
use std::collections::BTreeMap;

/// List the adapters with the features and limits that matter to kernels.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    json: JsonArg,
}

/// Features that kernels or measurements can use. None is required.
const FEATURES: [(&str, wgpu::Features); 11] = [
    ("SHADER_F16", wgpu::Features::SHADER_F16),
    ("SUBGROUP", wgpu::Features::SUBGROUP),
    ("SUBGROUP_BARRIER", wgpu::Features::SUBGROUP_BARRIER),
    ("SHADER_I16", wgpu::Features::SHADER_I16),
    ("SHADER_INT64", wgpu::Features::SHADER_INT64),
    ("IMMEDIATES", wgpu::Features::IMMEDIATES),
    ("PIPELINE_CACHE", wgpu::Features::PIPELINE_CACHE),
    ("MAPPABLE_PRIMARY_BUFFERS", wgpu::Features::MAPPABLE_PRIMARY_BUFFERS),
    ("EXPERIMENTAL_COOPERATIVE_MATRIX", wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
    ("TIMESTAMP_QUERY", wgpu::Features::TIMESTAMP_QUERY),
    ("TIMESTAMP_QUERY_INSIDE_PASSES", wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES),
];

/// Limits that decide how work is split. The field names are those of WebGPU.
#[derive(Serialize)]
struct Limits {
    max_buffer_size: u64,
    max_storage_buffer_binding_size: u64,
    max_uniform_buffer_binding_size: u64,
    max_storage_buffers_per_shader_stage: u32,
    max_compute_workgroup_storage_size: u32,
    max_compute_invocations_per_workgroup: u32,
    max_compute_workgroup_size_x: u32,
    max_compute_workgroups_per_dimension: u32,
    min_storage_buffer_offset_alignment: u32,
    min_uniform_buffer_offset_alignment: u32,
    subgroup_min_size: u32,
    subgroup_max_size: u32,
}

#[derive(Serialize)]
struct Row {
    index: usize,
    name: String,
    driver: String,
    driver_info: String,
    backend: String,
    device_type: String,
    features: BTreeMap<&'static str, bool>,
    limits: Limits,
}

#[derive(Serialize)]
struct Json {
    adapters: Vec<Row>,
}

fn row(index: usize, adapter: &wgpu::Adapter) -> Row {
    let (info, limits, has) = (adapter.get_info(), adapter.limits(), adapter.features());
    Row {
        index,
        name: info.name,
        driver: info.driver,
        driver_info: info.driver_info,
        backend: info.backend.to_string(),
        device_type: format!("{:?}", info.device_type),
        features: FEATURES.iter().map(|&(name, feature)| (name, has.contains(feature))).collect(),
        limits: Limits {
            max_buffer_size: limits.max_buffer_size,
            max_storage_buffer_binding_size: limits.max_storage_buffer_binding_size,
            max_uniform_buffer_binding_size: limits.max_uniform_buffer_binding_size,
            max_storage_buffers_per_shader_stage: limits.max_storage_buffers_per_shader_stage,
            max_compute_workgroup_storage_size: limits.max_compute_workgroup_storage_size,
            max_compute_invocations_per_workgroup: limits.max_compute_invocations_per_workgroup,
            max_compute_workgroup_size_x: limits.max_compute_workgroup_size_x,
            max_compute_workgroups_per_dimension: limits.max_compute_workgroups_per_dimension,
            min_storage_buffer_offset_alignment: limits.min_storage_buffer_offset_alignment,
            min_uniform_buffer_offset_alignment: limits.min_uniform_buffer_offset_alignment,
            subgroup_min_size: info.subgroup_min_size,
            subgroup_max_size: info.subgroup_max_size,
        },
    }
}

/// Returns the column of an adapter in the second table, with one property in each line.
fn properties(row: &Row) -> Vec<(&'static str, String)> {
    let l = &row.limits;
    let bytes = |count: u32| report::bytes(count.into());
    let mut lines: Vec<(&str, String)> = FEATURES
        .iter()
        .map(|&(name, _)| (name, if row.features[name] { "yes" } else { "no" }.to_owned()))
        .collect();
    // Without subgroups, the sizes are only what the adapter could have.
    let subgroup = match (row.features["SUBGROUP"], l.subgroup_min_size, l.subgroup_max_size) {
        (false, ..) => "none".to_owned(),
        (true, low, high) if low == high => low.to_string(),
        (true, low, high) => format!("{low}–{high}"),
    };
    lines.extend([
        ("largest buffer", report::bytes(l.max_buffer_size)),
        ("largest storage binding", report::bytes(l.max_storage_buffer_binding_size)),
        ("largest uniform binding", report::bytes(l.max_uniform_buffer_binding_size)),
        ("storage buffers per stage", l.max_storage_buffers_per_shader_stage.to_string()),
        ("workgroup memory", bytes(l.max_compute_workgroup_storage_size)),
        ("invocations per workgroup", l.max_compute_invocations_per_workgroup.to_string()),
        ("workgroup size along x", l.max_compute_workgroup_size_x.to_string()),
        ("workgroups per dimension", l.max_compute_workgroups_per_dimension.to_string()),
        ("storage offset alignment", bytes(l.min_storage_buffer_offset_alignment)),
        ("uniform offset alignment", bytes(l.min_uniform_buffer_offset_alignment)),
        ("subgroup size", subgroup),
    ]);
    lines
}

fn text(rows: &[Row]) -> String {
    let mut list = report::table(&["#", "adapter", "driver", "backend", "type"], true);
    for row in rows {
        let driver = format!("{} {}", row.driver, row.driver_info);
        list.add_row([
            row.index.to_string(),
            printable(&row.name),
            printable(driver.trim()),
            row.backend.clone(),
            row.device_type.clone(),
        ]);
    }
    let mut text = report::text(&list);
    // Four columns of numbers beside the names are what 80 columns hold.
    for some in rows.chunks(4) {
        let mut header = vec!["".to_owned()];
        header.extend(some.iter().map(|row| format!("# {}", row.index)));
        let header: Vec<&str> = header.iter().map(String::as_str).collect();
        let mut table = report::table(&header, true);
        let columns: Vec<_> = some.iter().map(properties).collect();
        for line in 0..columns[0].len() {
            let mut cells = vec![comfy_table::Cell::new(columns[0][line].0)];
            cells.extend(columns.iter().map(|column| report::right(&column[line].1)));
            table.add_row(cells);
        }
        text.push('\n');
        text.push_str(&report::text(&table));
    }
    text
}

/// Lists every adapter.
pub fn run(args: &Args) -> Result<Outcome, CliError> {
    let report = Report::open(&args.json)?;
    let adapters: Vec<Row> =
        adapter::enumerate()?.iter().enumerate().map(|(index, a)| row(index, a)).collect();
    report.finish(&text(&adapters), &Json { adapters })?;
    Ok(Outcome::Fine)
}
