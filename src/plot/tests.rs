//! Whole figures: odd data never panic, the files are sound, and the same figure has the same bytes.

use super::*;

const ODD: [f64; 9] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -1.0, 1e308, -1e308, 1e-308, 3.0];

fn axes() -> Vec<Axis> {
    let mut axes = Vec::new();
    for scale in [Scale::Linear, Scale::Log2, Scale::Log10] {
        for unit in [Unit::Plain, Unit::Bytes, Unit::Seconds] {
            axes.push(Axis::new("axis").scale(scale).unit(unit));
        }
    }
    axes
}

fn sample() -> LineChart {
    let curve = |k: f64| (0..50).map(move |i| (f64::from(i), (f64::from(i) * 0.1).sin() + k));
    LineChart::new("Loss <& \"rest\">", Axis::new("step"), Axis::new("loss"))
        .series(Series::new("a & b", curve(0.0)).band(curve(0.0).map(|(x, y)| (x, y - 0.1, y + 0.1))))
        .series(Series::new("<c>", curve(1.0)).missing(60.0, "out of memory"))
        .level(0.5, "chance")
}

/// All kinds of figure over the same numbers.
fn figures(values: &[f64], x: &Axis, y: &Axis) -> Vec<Scene> {
    let points: Vec<(f64, f64)> = values.iter().flat_map(|a| values.iter().map(move |b| (*a, *b))).collect();
    let series = || {
        Series::new("s", points.clone())
            .band(points.iter().map(|p| (p.0, p.1, p.0)))
            .missing(values.first().copied().unwrap_or(0.0), "why")
    };
    let n = values.len();
    let mut panels = Panels::new("t", x.clone())
        .panel(Panel::raster("r", n, points.iter().enumerate().map(|(i, p)| (p.0, i))).group(n / 2, "g"))
        .panel(Panel::traces(y.clone(), [series(), series().dots()]))
        .panel(Panel::traces(y.clone(), [series(), series()]).stacked());
    for v in values {
        panels = panels.phase("p", *v, 1.0).event(*v, "e");
    }
    let names = (0..n).map(|i| format!("name {i}"));
    vec![
        LineChart::new("t", x.clone(), y.clone()).series(series()).series(series().dots()).scene(),
        panels.scene(),
        HeatMap::new("t", [n, 2], values.iter().copied(), y.clone()).numbers(3).x_names("n", ["a", "b"]).scene(),
        HeatMap::new("t", [1, n], values.iter().copied(), y.clone()).colors(ColorMap::Diverging).square().scene(),
        BarChart::new("t", "x", names, y.clone()).bars("a", values.to_vec()).bars("b", []).numbers(2).scene(),
        Frames::new("t", [n, 2], y.clone()).picture("p", values.iter().copied()).picture("q", []).scene(),
        BarChart::histogram("t", x.clone(), values.iter().copied(), n).scene(),
    ]
}

fn are_finite(marks: &[scene::Mark]) -> bool {
    use scene::Mark;
    let finite = |p: &scene::Pt| p.0.is_finite() && p.1.is_finite();
    marks.iter().all(|mark| match mark {
        Mark::Path { parts, .. } => parts.iter().flatten().all(finite),
        Mark::Circle { centre, .. } => finite(centre),
        Mark::Text(text) => finite(&text.at) && text.size.is_finite(),
        Mark::Image { rect, .. } => [rect.x, rect.y, rect.w, rect.h].iter().all(|v| v.is_finite()),
        Mark::Clip { marks, .. } => are_finite(marks),
    })
}

/// The texts of a figure and where they are.
fn texts(marks: &[scene::Mark]) -> Vec<(String, scene::Pt)> {
    let of = |mark: &scene::Mark| match mark {
        scene::Mark::Text(text) => vec![(text.text.clone(), text.at)],
        scene::Mark::Clip { marks, .. } => texts(marks),
        _ => vec![],
    };
    marks.iter().flat_map(of).collect()
}

#[test]
fn a_legend_below_is_in_the_figure_whatever_the_length_of_its_names() {
    let mut rows = Vec::new();
    for count in 2..9 {
        for length in [4, 16, 28, 40, 90] {
            let name = |k: usize| format!("{k} {}", "es-d-rtrl ".repeat(9).split_at(length).0.trim_end());
            let mut bars = BarChart::new("t", "map", ["l0", "out"], Axis::new("cosine similarity").range(0.0, 1.05));
            let mut lines = LineChart::new("t", Axis::new("step"), Axis::new("cosine")).legend(Legend::Below);
            for k in 0..count {
                bars = bars.bars(name(k), [0.5, 0.9]);
                lines = lines.series(Series::new(name(k), [(0.0, 0.5), (1.0, 0.9)]));
            }
            for scene in [bars.scene(), lines.scene()] {
                let entries: Vec<_> =
                    texts(&scene.marks).into_iter().filter(|(text, _)| text.contains("es-d")).collect();
                assert!(entries.len() >= count, "{count} {length}: every name is there");
                let lowest = entries.iter().map(|(_, at)| at.1).fold(0.0, f64::max);
                assert!(lowest + 6.0 <= scene.height, "{count} {length}: {lowest} in {}", scene.height);
                let mut heights: Vec<i64> = entries.iter().map(|(_, at)| at.1.round() as i64).collect();
                heights.dedup();
                rows.push(heights.len());
            }
        }
    }
    assert!(rows.contains(&1) && rows.iter().any(|n| *n > 2), "one row and several: {rows:?}");
}

#[test]
fn odd_data_never_panic_and_give_sound_svg() {
    let cases: [&[f64]; 6] = [&[], &ODD[..1], &[2.0], &[5.0, 5.0, 5.0], &ODD, &[-3.0, -2.0]];
    for (i, axis) in axes().iter().enumerate() {
        for values in cases {
            for scene in
                figures(values, &Axis::new("x"), axis).into_iter().chain(figures(values, axis, &Axis::new("y")))
            {
                let svg = svg::write(&scene);
                check_xml(&svg);
                assert!(are_finite(&scene.marks), "a coordinate is not a number: {axis:?} {values:?}");
                // Rasterising is slow without optimisation, so one axis stands for the others.
                if i == 0 && (values.is_empty() || values == ODD) {
                    raster::write(&scene).expect("figures of ordinary size can be encoded");
                }
            }
        }
    }
}

#[test]
fn text_stays_inside_the_figure() {
    let long =
        "a very long label that cannot possibly be set on one line of a small figure without being cut ".repeat(4);
    let chart = LineChart::new(&long, Axis::new(&long), Axis::new(&long))
        .subtitle(&long)
        .size(300, 200)
        .series(Series::new(&long, [(1.0, 1e9), (2.0, 2e-9)]))
        .series(Series::new("b", [(1.0, 3.0)]).missing(2.0, &long));
    let map = HeatMap::new(&long, [3, 3], (0..9).map(f64::from), Axis::new(&long))
        .x_names(&long, [&long, &long, "c"])
        .y_names(&long, [&long, &long, "c"]);
    let bars = BarChart::new(&long, &long, [&long, &long], Axis::new(&long)).bars(&long, [1.0]).bars("b", [2.0]);
    let panels = Panels::new(&long, Axis::new(&long))
        .phase(&long, 0.0, 1.0)
        .event(0.5, &long)
        .panel(Panel::raster(&long, 3, [(0.0, 1)]).group(2, &long));
    for scene in [chart.scene(), map.scene(), bars.scene(), panels.scene()] {
        assert!(scene.height < 4000.0 && scene.width < 4000.0);
        for mark in &scene.marks {
            let scene::Mark::Text(text) = mark else {
                continue;
            };
            let long = font::width(&text.text, text.size, text.bold);
            let before = match text.align {
                scene::Align::Start => 0.0,
                scene::Align::Middle => long / 2.0,
                scene::Align::End => long,
            };
            let (low, high, limit) = if text.upright {
                (text.at.1 - long + before, text.at.1 + before, scene.height)
            } else {
                (text.at.0 - before, text.at.0 - before + long, scene.width)
            };
            assert!(low >= -1.0 && high <= limit + 1.0, "{:?} runs from {low} to {high} of {limit}", text.text);
        }
    }
}

#[test]
fn png_has_the_size_asked_for_and_shows_something() {
    let bytes = raster::write(&sample().size(400, 300).scene()).unwrap();
    let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((info.width, info.height, info.color_type), (800, 600, png::ColorType::Rgb));
    let blue = pixels.chunks(3).filter(|p| *p == [0x00, 0x72, 0xb2]).count();
    assert!(blue > 200, "the first series is drawn in its colour, {blue} pixels");
}

#[test]
fn the_same_figure_has_the_same_bytes() {
    let [a, b] = [sample(), sample()];
    assert_eq!(a.svg(), b.svg());
    assert_eq!(raster::write(&a.scene()).unwrap(), raster::write(&b.scene()).unwrap());
}

#[test]
fn markup_in_names_is_escaped() {
    let svg = sample().svg();
    check_xml(&svg);
    assert!(svg.contains("<title>Loss &lt;&amp; &quot;rest&quot;&gt;</title>"));
    assert!(svg.contains(">&lt;c&gt;</text>"));
}

#[test]
fn values_without_a_logarithm_are_skipped_not_drawn_at_the_edge() {
    let y = Axis::new("").scale(Scale::Log10);
    let with = |points: &[(f64, f64)]| {
        LineChart::new("", Axis::new("").range(0.0, 3.0), y.clone()).series(Series::new("", points.to_vec())).svg()
    };
    assert_eq!(with(&[(0.0, 1.0), (1.0, 10.0), (2.0, -5.0)]), with(&[(0.0, 1.0), (1.0, 10.0), (2.0, f64::NAN)]));
}

#[test]
fn files_of_long_series_stay_small() {
    let long = (0..1_000_000).map(|i| (f64::from(i), f64::from(i).sin()));
    let chart = LineChart::new("", Axis::new(""), Axis::new("")).series(Series::new("", long));
    assert!(chart.svg().len() < 150_000, "{} bytes", chart.svg().len());
}

#[test]
fn saving_names_files_and_reports_the_path_of_a_failure() {
    let folder = std::env::temp_dir().join(format!("plot-test-{}", std::process::id()));
    let [svg, png] = sample().size(240, 180).save(folder.join("new/loss-0.5")).unwrap();
    assert_eq!((svg.clone(), png.clone()), (folder.join("new/loss-0.5.svg"), folder.join("new/loss-0.5.png")));
    assert!(fs::read_to_string(&svg).unwrap().starts_with("<?xml") && fs::read(&png).unwrap().starts_with(b"\x89PNG"));
    let [svg, _] = sample().size(240, 180).save(&folder).unwrap();
    assert_eq!(svg, folder.join("loss-rest.svg"));
    assert_eq!(fs::read_dir(folder.join("new")).unwrap().count(), 2, "no temporary file is left");

    let blocked = png.join("below-a-file");
    let error = sample().save(&blocked).unwrap_err();
    assert!(error.to_string().contains(&png.display().to_string()), "{error}");
    fs::remove_dir_all(folder).unwrap();
}

/// Checks that tags nest, attributes are quoted and text holds no bare markup.
fn check_xml(text: &str) {
    let body = text.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n").expect("a declaration");
    let mut open: Vec<&str> = Vec::new();
    let mut rest = body;
    while let Some(at) = rest.find('<') {
        check_text(&rest[..at]);
        let end = at + rest[at..].find('>').expect("every tag ends");
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
            continue;
        }
        let (tag, is_empty) = tag.strip_suffix('/').map_or((tag, false), |t| (t, true));
        let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric()), "bad tag {tag:?}");
        let parts: Vec<&str> = attributes.split('"').collect();
        assert_eq!(parts.len() % 2, 1, "unbalanced quotes in {tag:?}");
        for pair in parts.chunks_exact(2) {
            assert!(pair[0].trim().ends_with('='), "no name for a value in {tag:?}");
            check_text(pair[1]);
        }
        if !is_empty {
            open.push(name);
        }
        assert!(!open.is_empty() || rest.trim().is_empty(), "one root");
    }
    assert!(open.is_empty() && rest.trim().is_empty());
}

fn check_text(text: &str) {
    for (at, _) in text.match_indices('&') {
        let known = ["&amp;", "&lt;", "&gt;", "&quot;", "&apos;"];
        assert!(known.iter().any(|k| text[at..].starts_with(k)), "bare ampersand in {text:?}");
    }
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "control character in {text:?}");
}
