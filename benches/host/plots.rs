//! The results as plots.

use std::io;
use std::path::Path;

use plotters::prelude::*;

use crate::report::thousands;
use crate::results::{Group, Results, Test};
use crate::server::Kind;

const SIZE: (u32, u32) = (760, 420);
const FONT: &str = "sans-serif";
/// Number of points of a distribution.
const POINTS: usize = 200;

/// A line of a plot.
struct Line {
    name: String,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
}

/// Writes all plots for which there are results.
pub fn write(results: &Results, folder: &Path) -> io::Result<()> {
    let groups = [(Group::Nodes, "nodes"), (Group::Watches, "watches"), (Group::Domains, "domains")];
    for (group, what) in groups {
        let lines = growth(results, group);
        let title = format!("Server CPU time against {what}");
        draw(&folder.join(format!("{what}.svg")), &title, what, "µs for one request", &lines, |size| {
            thousands(*size as usize)
        })?;
    }
    let lines = distribution(results, "read1");
    let part = |behind: &f64| format!("{} %", 100.0 - 100.0 / behind);
    draw(
        &folder.join("latency.svg"),
        "Latency of a READ, one at a time",
        "part of the requests",
        "µs at most",
        &lines,
        part,
    )
}

const fn colour(kind: Kind) -> RGBColor {
    match kind {
        Kind::Ours => RGBColor(31, 119, 180),
        Kind::C => RGBColor(255, 127, 14),
        Kind::Ocaml => RGBColor(44, 160, 44),
    }
}

/// Returns the cost of a read or write for each server. Size 0 is drawn at 1, because the axis is logarithmic.
fn growth(results: &Results, group: Group) -> Vec<Line> {
    let name = if group == Group::Watches { "write" } else { "read" };
    let tests: Vec<Test> = results.tests(group).into_iter().filter(|test| test.name == name).collect();
    let line = |kind: Kind| {
        let point = |test: &Test| Some((test.size.max(1) as f64, results.cpu(*test, kind)?.median));
        Line { name: kind.name().into(), colour: colour(kind), points: tests.iter().filter_map(point).collect() }
    };
    Kind::ALL.map(line).into()
}

/// Returns the latency that each part of the requests does not exceed. The axis is the logarithm of the number of
/// requests for each slower one, so that the rare slow ones are visible.
fn distribution(results: &Results, name: &str) -> Vec<Line> {
    let line = |kind: Kind| {
        let all = results.latencies(name, kind);
        let most = (all.len() as f64 / 10.0).max(10.0);
        let point = |at: usize| {
            let behind = most.powf(at as f64 / POINTS as f64);
            let index = ((1.0 - 1.0 / behind) * all.len() as f64) as usize;
            all.get(index).map(|latency| (behind, *latency))
        };
        Line { name: kind.name().into(), colour: colour(kind), points: (0..POINTS).filter_map(point).collect() }
    };
    Kind::ALL.map(line).into()
}

/// Draws lines on two logarithmic axes.
fn draw(
    path: &Path,
    title: &str,
    x_title: &str,
    y_title: &str,
    lines: &[Line],
    x_label: impl Fn(&f64) -> String,
) -> io::Result<()> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let (Some(x), Some(y)) = (bounds(points().map(|point| point.0)), bounds(points().map(|point| point.1))) else {
        return Ok(());
    };
    let failed = |error| io::Error::other(format!("{}: {error}", path.display()));
    render(path, title, [x_title, y_title], lines, (x, y), &x_label).map_err(failed)
}

/// Returns the minimum and the maximum, with some room on both sides.
fn bounds(values: impl Iterator<Item = f64> + Clone) -> Option<(f64, f64)> {
    let least = values.clone().min_by(f64::total_cmp)?;
    let most = values.max_by(f64::total_cmp)?;
    Some((least / 1.3, most * 1.3))
}

fn render(
    path: &Path,
    title: &str,
    [x_title, y_title]: [&str; 2],
    lines: &[Line],
    (x, y): ((f64, f64), (f64, f64)),
    x_label: &dyn Fn(&f64) -> String,
) -> Result<(), String> {
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(|error| error.to_string())?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, (FONT, 18))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d((x.0..x.1).log_scale(), (y.0..y.1).log_scale())
        .map_err(|error| error.to_string())?;
    chart
        .configure_mesh()
        .x_desc(x_title)
        .y_desc(y_title)
        .x_label_formatter(x_label)
        .y_label_formatter(&|value| format!("{value}"))
        .label_style((FONT, 13))
        .axis_desc_style((FONT, 14))
        .light_line_style(RGBColor(240, 240, 240))
        .draw()
        .map_err(|error| error.to_string())?;
    for line in lines.iter().filter(|line| !line.points.is_empty()) {
        let style = line.colour.stroke_width(2);
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), style).point_size(if line.points.len() < 20 {
                3
            } else {
                0
            }))
            .map_err(|error| error.to_string())?
            .label(&line.name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .label_font((FONT, 13))
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(200, 200, 200))
        .draw()
        .map_err(|error| error.to_string())?;
    area.present().map_err(|error| error.to_string())
}
