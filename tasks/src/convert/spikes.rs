//! Spike trains to HDF5 files of the published layout.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{Converted, Set, Target, Written};
use crate::error::require;
use crate::events::Accept;
use crate::hdf5::{self, Element, Item};
use crate::shd::bin::half;
use crate::shd::{self, ShdFile, ShdKind, UNITS};
use crate::{Result, Split, parallel};

/// Writes the file of every split that is there: times in seconds in the shortest floating-point numbers that hold all of them exactly.
pub(super) fn write(dir: &Path, kind: ShdKind, target: &Target, accept: Accept) -> Result<Converted> {
    let got = accept.sensor.map_or_else(String::new, |s| s.to_string());
    require(accept.sensor.is_none(), super::NAME, "SHD and SSC have no sensor", got, "leave --sensor out")?;
    let (mut splits, mut longest) = (Vec::new(), Element::Half);
    for split in Split::ALL {
        let Some(path) = shd::find(dir, kind, split) else { continue };
        let file = ShdFile::open(&path)?.in_unit(accept.time_unit)?;
        let (written, element, bytes) = one_file(&file, &path, kind, split)?;
        target.write(Path::new(&kind.file(split)), &bytes)?;
        longest = if element.size() > longest.size() { element } else { longest };
        splits.push(written);
    }
    let times = match longest {
        Element::Half => "seconds, half precision",
        Element::Single => "seconds, single precision",
        _ => "seconds, double precision",
    };
    let (what, to) = (Set::Spikes(kind).name(), PathBuf::new());
    Ok(Converted { what, to, splits, sensor: None, times, remarks: Vec::new() })
}

fn one_file(file: &ShdFile, path: &Path, kind: ShdKind, split: Split) -> Result<(Written, Element, Vec<u8>)> {
    let labels = file.labels();
    if let Some(i) = labels.iter().position(|l| !(0..kind.classes() as i64).contains(l)) {
        return Err(shd::bad_label(path, labels, i, kind.classes()));
    }
    // Two passes, as the spikes of all samples take several times the file.
    let needed = parallel::map(file.len(), |i| Ok(shortest(&file.sample(i, UNITS)?)));
    let needed = needed.into_iter().collect::<Result<Vec<_>>>()?;
    let element = needed.into_iter().max_by_key(|element| element.size()).unwrap_or(Element::Half);
    let encoded = parallel::map(file.len(), |i| {
        let spikes = file.sample(i, UNITS)?;
        let times: Vec<u8> = spikes.iter().flat_map(|s| bytes(s.0, element)).collect();
        let units: Vec<u8> = spikes.iter().flat_map(|s| s.1.to_le_bytes()).collect();
        Ok((times, units))
    });
    let (times, units): (Vec<_>, Vec<_>) = encoded.into_iter().collect::<Result<Vec<_>>>()?.into_iter().unzip();
    let mut extra = BTreeMap::new();
    if let Some(speakers) = file.speakers() {
        extra.insert("speaker".to_string(), Item::Integers(vec![speakers.len()], speakers.to_vec()));
    }
    if !file.keys().is_empty() {
        extra.insert("keys".to_string(), Item::Texts(vec![file.keys().len()], file.keys().to_vec()));
    }
    let spikes = [("times", Item::Sequences(element, times)), ("units", Item::Sequences(Element::Unsigned16, units))];
    let root = BTreeMap::from([
        ("spikes".to_string(), Item::group(spikes)),
        ("labels".to_string(), Item::Integers(vec![labels.len()], labels.to_vec())),
        ("extra".to_string(), Item::Group(extra)),
    ]);
    let classes = labels.iter().collect::<BTreeSet<_>>().len();
    let events = (0..file.len()).map(|i| file.count(i) as u64).sum();
    Ok((Written { split, samples: labels.len() as u64, classes, events }, element, hdf5::write(root)))
}

/// The shortest numbers that hold all times exactly.
fn shortest(spikes: &[(f64, u16)]) -> Element {
    let exact = |holds: fn(f64) -> bool| spikes.iter().all(|s| holds(s.0));
    if exact(|t| to_half(t).is_some()) {
        Element::Half
    } else if exact(|t| f64::from(t as f32) == t) {
        Element::Single
    } else {
        Element::Double
    }
}

fn bytes(time: f64, element: Element) -> Vec<u8> {
    match element {
        Element::Half => to_half(time).unwrap_or_default().to_le_bytes().to_vec(),
        Element::Single => (time as f32).to_le_bytes().to_vec(),
        _ => time.to_le_bytes().to_vec(),
    }
}

/// The half-precision number of this value, if there is one. Values are finite and at least 0.
fn to_half(value: f64) -> Option<u16> {
    let bits = (value as f32).to_bits();
    let exponent = (bits >> 23 & 0xff) as i32 - 127;
    let found = if exponent < -14 {
        // Multiples of the least number above 0.
        (value * f64::from(1 << 24)) as u16
    } else if exponent > 15 {
        return None;
    } else {
        (((exponent + 15) as u32) << 10 | (bits >> 13 & 0x3ff)) as u16
    };
    (half(found) == value).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_exact_or_none() {
        // Every finite half that is not negative.
        for bits in 0..0x7c00 {
            assert_eq!(to_half(half(bits)), Some(bits));
        }
        for value in [0.1, 1e-9, 65536.0, 1e30, 0.333_f32.into()] {
            assert_eq!(to_half(value), None, "{value}");
        }
    }
    #[test]
    fn the_shortest_numbers_are_exact() {
        let of = |times: &[f64]| shortest(&times.iter().map(|&t| (t, 0)).collect::<Vec<_>>());
        assert_eq!((of(&[]), of(&[0.0, 0.5])), (Element::Half, Element::Half));
        assert_eq!((of(&[0.5, 0.1_f32.into()]), of(&[0.1_f32.into(), 0.1])), (Element::Single, Element::Double));
        for (time, element) in [(0.5, Element::Half), (0.1_f32.into(), Element::Single), (0.1, Element::Double)] {
            assert_eq!(bytes(time, element).len(), element.size());
        }
        assert_eq!(bytes(0.1_f32.into(), Element::Single), 0.1_f32.to_le_bytes());
    }
}
