//! A run as an event file of TensorBoard: scalars of all updates and evaluations, histograms of the parameters in its checkpoints, its plots as
//! images, its settings as hyper-parameters.
//!
//! The file is a sequence of records, each a length, a check sum of the length, a message (`Event`), and a check sum of the message. Field
//! numbers are those of `tensorflow/core/util/event.proto`, `tensorflow/core/framework/summary.proto` and
//! `tensorboard/plugins/hparams/plugin_data.proto`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use prost::Message;
use toml::Value as Setting;

use crate::{
    settings::leaves,
    train::{
        checkpoint::{self, Name, write_atomic},
        record::{self, Entry},
        run::RunDir,
        trainer::Event as Recorded,
    },
};

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    /// Updates.
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
    #[prost(message, optional, tag = "4")]
    image: Option<Image>,
    #[prost(message, optional, tag = "5")]
    histogram: Option<Histogram>,
    #[prost(message, optional, tag = "9")]
    metadata: Option<Metadata>,
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    /// 4: red, green, blue, opacity.
    #[prost(int32, tag = "3")]
    colorspace: i32,
    #[prost(bytes = "vec", tag = "4")]
    encoded: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(double, tag = "1")]
    min: f64,
    #[prost(double, tag = "2")]
    max: f64,
    #[prost(double, tag = "3")]
    num: f64,
    #[prost(double, tag = "4")]
    sum: f64,
    #[prost(double, tag = "5")]
    sum_squares: f64,
    /// Upper ends of the buckets.
    #[prost(double, repeated, tag = "6")]
    bucket_limit: Vec<f64>,
    #[prost(double, repeated, tag = "7")]
    bucket: Vec<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(message, optional, tag = "1")]
    plugin_data: Option<PluginData>,
}

#[derive(Clone, PartialEq, Message)]
struct PluginData {
    #[prost(string, tag = "1")]
    plugin_name: String,
    #[prost(bytes = "vec", tag = "2")]
    content: Vec<u8>,
}

/// `HParamsPluginData`, with the start of a session.
#[derive(Clone, PartialEq, Message)]
struct HyperParameters {
    #[prost(message, optional, tag = "3")]
    session_start: Option<SessionStart>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionStart {
    #[prost(btree_map = "string, message", tag = "1")]
    settings: BTreeMap<String, AnyValue>,
    #[prost(double, tag = "5")]
    start_seconds: f64,
}

/// `google.protobuf.Value`.
#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Kind", tags = "2, 3, 4")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(double, tag = "2")]
    Number(f64),
    #[prost(string, tag = "3")]
    Text(String),
    #[prost(bool, tag = "4")]
    Bool(bool),
}

/// Buckets of a histogram.
const BUCKETS: usize = 30;

/// The first bytes of a PNG file, after which its width and height follow.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR";

/// Writes the event file of a run into `out`; returns its path. The same run gives the same file, which replaces the one before.
///
/// # Errors
/// When the run cannot be read, or the folder cannot be written to.
pub fn write(run: &Path, out: &Path) -> Result<PathBuf> {
    let settings: Setting = RunDir::config(run)?;
    let begun = began(run);
    let mut events = Events { bytes: Vec::new(), begun };
    events.push(Event { wall_time: begun, file_version: Some("brain.Event:2".into()), ..Event::default() });
    events.value(0, 0.0, hyper_parameters(&settings, begun));
    let last = events.metrics(run)?;
    events.checkpoints(run);
    events.images(run, last)?;
    let path = out.join(format!("events.out.tfevents.{:010}.{}.etrace", begun as u64, record::host()));
    let cannot = || format!("cannot write {}", path.display());
    std::fs::create_dir_all(out).with_context(cannot)?;
    write_atomic(&path, &events.bytes).with_context(cannot)?;
    Ok(path)
}

/// When the first process began to work on a run, in seconds since 1970; 0 if it does not say.
fn began(run: &Path) -> f64 {
    let entries = RunDir::entries(run);
    let time = entries.iter().find_map(|entry| if let Entry::Start { time, .. } = entry { Some(time) } else { None });
    let time = time.and_then(|text| humantime::parse_rfc3339(text).ok()).unwrap_or(UNIX_EPOCH);
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

fn hyper_parameters(settings: &Setting, begun: f64) -> Value {
    let kind = |value: &Setting| match value {
        Setting::Boolean(b) => Kind::Bool(*b),
        Setting::Integer(n) => Kind::Number(*n as f64),
        Setting::Float(x) => Kind::Number(*x),
        Setting::String(text) => Kind::Text(text.clone()),
        other => Kind::Text(other.to_string()),
    };
    let all = leaves(settings).into_iter().map(|(path, value)| (path, AnyValue { kind: Some(kind(value)) }));
    let session_start = SessionStart { settings: all.collect(), start_seconds: begun };
    let content = HyperParameters { session_start: Some(session_start) }.encode_to_vec();
    let plugin_data = Some(PluginData { plugin_name: "hparams".into(), content });
    Value { tag: "_hparams_/session_start_info".into(), metadata: Some(Metadata { plugin_data }), ..Value::default() }
}

/// An event file in the making.
struct Events {
    bytes: Vec<u8>,
    begun: f64,
}

impl Events {
    fn push(&mut self, event: Event) {
        let message = event.encode_to_vec();
        let length = (message.len() as u64).to_le_bytes();
        self.bytes.extend(length);
        self.bytes.extend(check_sum(&length).to_le_bytes());
        self.bytes.extend(&message);
        self.bytes.extend(check_sum(&message).to_le_bytes());
    }

    fn value(&mut self, step: u64, seconds: f64, value: Value) {
        let summary = Some(Summary { value: vec![value] });
        self.push(Event { wall_time: self.begun + seconds, step: step as i64, summary, ..Event::default() });
    }

    fn scalars(&mut self, step: u64, seconds: f64, all: &[(String, f64)]) {
        for (tag, x) in all {
            self.value(step, seconds, Value { tag: tag.clone(), simple_value: Some(*x as f32), ..Value::default() });
        }
    }

    /// What training recorded; returns the last update and its seconds since the start.
    fn metrics(&mut self, run: &Path) -> Result<(u64, f64)> {
        let (mut last, mut at) = (0, 0.0);
        for row in RunDir::metrics(run)? {
            match serde_json::from_value(row) {
                Ok(Recorded::Step { step, loss, score, smoothed, norm, l1, lr, seconds, .. }) => {
                    let measure = score.measure().name();
                    (last, at) = (step, at + seconds);
                    let smoothed_name = format!("{measure} smoothed");
                    let named = [
                        ("loss", Some(f64::from(loss))),
                        (measure, Some(score.value())),
                        (smoothed_name.as_str(), Some(smoothed)),
                        ("gradient norm", norm.map(f64::from)),
                        ("l1 term", (l1 != 0.0).then_some(l1.into())),
                        ("learning rate", Some(lr)),
                        ("seconds per batch", Some(seconds)),
                    ];
                    let all = named.into_iter().filter_map(|(name, x)| Some((format!("training/{name}"), x?)));
                    self.scalars(step, at, &all.collect::<Vec<_>>());
                }
                Ok(Recorded::Evaluation { step, split, loss, score, rates, .. }) => {
                    let name = score.measure().name();
                    let mut all = vec![(format!("{split}/loss"), loss), (format!("{split}/{name}"), score.value())];
                    all.extend(
                        rates.into_iter().map(|(layer, rate)| (format!("spikes per neuron and step/{layer}"), rate)),
                    );
                    self.scalars(step, at, &all);
                }
                Err(_) => {}
            }
        }
        Ok((last, at))
    }

    /// Histograms of the parameters in each checkpoint that can be read.
    fn checkpoints(&mut self, run: &Path) {
        let mut known = Vec::new();
        for name in Name::ALL {
            let (Ok(arrays), Ok(progress)) = (checkpoint::arrays(run, name), checkpoint::progress(run, name)) else {
                continue;
            };
            if known.contains(&progress.step) {
                continue;
            }
            known.push(progress.step);
            for (name, values) in arrays.into_iter().filter(|(name, _)| !name.starts_with("slots.")) {
                let histogram = Some(histogram(&values));
                self.value(
                    progress.step,
                    0.0,
                    Value { tag: format!("parameters/{name}"), histogram, ..Value::default() },
                );
            }
        }
    }

    /// The plots in the folder.
    fn images(&mut self, run: &Path, (step, seconds): (u64, f64)) -> Result<()> {
        let listed = std::fs::read_dir(run).with_context(|| format!("cannot read {}", run.display()))?;
        let mut files: Vec<PathBuf> =
            listed.flatten().map(|entry| entry.path()).filter(|p| p.extension().is_some_and(|e| e == "png")).collect();
        files.sort();
        for file in files {
            let encoded = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let size = |at: usize| encoded.get(at..at + 4).map(|b| i32::from_be_bytes([b[0], b[1], b[2], b[3]]));
            let (true, Some(width), Some(height)) = (encoded.starts_with(PNG), size(16), size(20)) else { continue };
            let name = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            let image = Some(Image { height, width, colorspace: 4, encoded });
            self.value(step, seconds, Value { tag: format!("plots/{name}"), image, ..Value::default() });
        }
        Ok(())
    }
}

/// CRC-32C, masked as in all files of records: a check sum of data that holds check sums would be weak.
fn check_sum(bytes: &[u8]) -> u32 {
    const CASTAGNOLI: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);
    CASTAGNOLI.checksum(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Values in buckets of one width.
fn histogram(values: &[f32]) -> Histogram {
    let finite: Vec<f64> = values.iter().map(|&x| f64::from(x)).filter(|x| x.is_finite()).collect();
    let (min, max) = finite.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), &x| (a.min(x), b.max(x)));
    if finite.is_empty() {
        return Histogram::default();
    }
    let width = ((max - min) / BUCKETS as f64).max(f64::MIN_POSITIVE);
    let mut bucket = vec![0.0; BUCKETS];
    for x in &finite {
        bucket[(((x - min) / width) as usize).min(BUCKETS - 1)] += 1.0;
    }
    let bucket_limit = (1..=BUCKETS).map(|k| if k == BUCKETS { max } else { min + width * k as f64 }).collect();
    let (sum, sum_squares) = finite.iter().fold((0.0, 0.0), |(s, q), x| (s + x, q + x * x));
    Histogram { min, max, num: finite.len() as f64, sum, sum_squares, bucket_limit, bucket }
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 3720, "B.4. CRC Examples": 32 bytes of zeros have the check sum 8a9136aa.
    #[test]
    fn check_sums_are_masked_crc_32c() {
        assert_eq!(check_sum(&[0; 32]), 0x8a91_36aa_u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn every_value_has_its_bucket() {
        let found = histogram(&[-1.0, 0.0, 0.5, 2.0, f32::NAN]);
        assert_eq!((found.min, found.max, found.num, found.sum, found.sum_squares), (-1.0, 2.0, 4.0, 1.5, 5.25));
        assert_eq!(found.bucket.iter().sum::<f64>(), 4.0);
        assert_eq!((found.bucket[0], found.bucket[10], found.bucket[15], found.bucket[29]), (1.0, 1.0, 1.0, 1.0));
        let constant = histogram(&[3.0; 5]);
        assert_eq!((constant.bucket[0], constant.bucket_limit[BUCKETS - 1]), (5.0, 3.0));
        assert_eq!(histogram(&[]), Histogram::default());
    }
}
