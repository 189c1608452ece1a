//! The page's plots, as SVG.

use std::io;
use std::path::Path;

use plotters::prelude::*;

use crate::plan::{LARGE_NODES, NODES, RELEASES, Store};
use crate::results::Results;

const SIZE: (u32, u32) = (760, 440);

/// A line of a plot.
struct Series {
    title: String,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
}

/// The texts of a plot.
struct Axes {
    title: &'static str,
    x: &'static str,
    y: &'static str,
}

/// Writes all plots.
pub(crate) fn write(folder: &Path, results: &Results) -> io::Result<()> {
    let sizes = [NODES[0], NODES[1], LARGE_NODES];
    let pause = series(|release, store| {
        let at =
            |nodes: &u32| Some((f64::from(*nodes), results.get(release, store, &format!("pause {nodes}"))?.median()));
        sizes.iter().filter_map(at).collect()
    });
    let axes = Axes { title: "Live update: the longest gap", x: "nodes", y: "milliseconds" };
    draw(&folder.join("xen-pause.svg"), &axes, &pause)?;

    // The share of slower reads, so that the tail has room.
    let mut shares: Vec<f64> = results.names("alone latency p").iter().filter_map(|text| text.parse().ok()).collect();
    shares.sort_by(f64::total_cmp);
    let latency = series(|release, store| {
        let at = |share: &f64| {
            let taken = results.get(release, store, &format!("alone latency p{share}"))?;
            Some((taken.median(), 100.0 - share))
        };
        shares.iter().filter_map(at).collect()
    });
    let axes = Axes { title: "One read from dom0", x: "microseconds", y: "% of reads that take longer" };
    draw(&folder.join("xen-latency.svg"), &axes, &latency)
}

fn series(points: impl Fn(&'static str, Store) -> Vec<(f64, f64)>) -> Vec<Series> {
    let colours = [RGBColor(0, 90, 181), RGBColor(220, 50, 32), RGBColor(90, 170, 240), RGBColor(250, 150, 120)];
    let pairs = RELEASES.iter().flat_map(|release| Store::BOTH.map(|store| (*release, store)));
    let all = pairs.zip(colours).map(|((release, store), colour)| Series {
        title: format!("{}, Xen {release}", store.title()),
        colour,
        points: points(release, store),
    });
    all.filter(|series| !series.points.is_empty()).collect()
}

/// Draws lines on two logarithmic axes.
fn draw(path: &Path, axes: &Axes, all: &[Series]) -> io::Result<()> {
    let values = |part: fn(&(f64, f64)) -> f64| all.iter().flat_map(move |series| series.points.iter().map(part));
    let (Some(x), Some(y)) = (range(values(|point| point.0)), range(values(|point| point.1))) else { return Ok(()) };
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    plot(&root, axes, all, x, y).map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
}

/// Returns a range that holds all values, with some room on both sides.
fn range(values: impl Iterator<Item = f64>) -> Option<std::ops::Range<f64>> {
    let (least, most) = values.fold((f64::MAX, f64::MIN), |(least, most), value| (least.min(value), most.max(value)));
    (least > 0.0 && most >= least).then_some(least * 0.7..most * 1.4)
}

fn plot(
    root: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    axes: &Axes,
    all: &[Series],
    x: std::ops::Range<f64>,
    y: std::ops::Range<f64>,
) -> Result<(), Box<dyn std::error::Error>> {
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(root)
        .caption(axes.title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(70)
        .build_cartesian_2d(x.log_scale(), y.log_scale())?;
    chart.configure_mesh().x_desc(axes.x).y_desc(axes.y).label_style(("sans-serif", 13)).draw()?;
    for series in all {
        let colour = series.colour;
        chart
            .draw_series(LineSeries::new(series.points.iter().copied(), colour.stroke_width(2)).point_size(3))?
            .label(series.title.clone())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3)).draw()?;
    root.present()?;
    Ok(())
}
