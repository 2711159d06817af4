//! The files of Prophesee's cameras: [`raw`] has the words of the sensor as they came (EVT 2.0, 2.1 and 3.0), [`dat`] decoded events.
//!
//! Both begin with lines of text:
//!
//! ```text
//! % evt 3.0
//! % format EVT3;height=720;width=1280
//! % geometry 1280x720
//! % end
//! ```
//!
//! The header ends after `% end`, or before the first line that does not begin with a percent sign and a space.

pub mod dat;
mod evt;
pub mod raw;

use super::Sensor;

/// The text at the beginning of a file.
struct Header<'a> {
    text: &'a str,
}

impl<'a> Header<'a> {
    /// Of a file with these contents.
    fn of(bytes: &'a [u8]) -> Self {
        let mut end = 0;
        while bytes[end..].starts_with(b"% ") {
            let line = bytes[end..].iter().position(|&b| b == b'\n').map_or(bytes.len(), |n| end + n + 1);
            let Ok(text) = std::str::from_utf8(&bytes[end..line]) else { break };
            end = line;
            if text.trim_end() == "% end" {
                break;
            }
        }
        // Every line of it is text.
        Header { text: std::str::from_utf8(&bytes[..end]).unwrap_or_default() }
    }

    /// Bytes.
    fn len(&self) -> usize {
        self.text.len()
    }

    /// What follows a keyword, in any letter case.
    fn get(&self, keyword: &str) -> Option<&'a str> {
        let mut lines = self.text.lines().filter_map(|line| line.strip_prefix("% "));
        lines.find_map(|line| {
            let (word, value) = line.trim().split_once(' ')?;
            word.eq_ignore_ascii_case(keyword).then_some(value.trim())
        })
    }

    /// One of the parts of the line `format`, such as `height=720`.
    fn option(&self, name: &str) -> Option<&'a str> {
        self.get("format")?.split(';').find_map(|part| part.split_once('=').filter(|p| p.0 == name)).map(|p| p.1)
    }

    /// The sensor, in any of the ways in which a header can name it.
    fn sensor(&self) -> Option<Sensor> {
        let size = |width: Option<&str>, height: Option<&str>| {
            let sensor = Sensor { width: width?.parse().ok()?, height: height?.parse().ok()? };
            sensor.is_sensible().then_some(sensor)
        };
        let (width, height) = self.get("geometry").and_then(|g| g.split_once('x')).unzip();
        size(width, height)
            .or_else(|| size(self.option("width"), self.option("height")))
            .or_else(|| size(self.get("width"), self.get("height")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        let header = Header::of(b"% evt 3.0 \n% format EVT3;height=720;width=1280\n% end\n% 5");
        assert_eq!((header.get("EVT"), header.option("height")), (Some("3.0"), Some("720")));
        assert_eq!((header.sensor(), header.len()), (Some(Sensor { width: 1280, height: 720 }), 53));
        for text in ["% geometry 64x48\n", "% Width 64\n% Height 48\n", "% format EVT2;width=64;height=48\n"] {
            let bytes = [text.as_bytes(), b"%\x80 no text\n"].concat();
            let header = Header::of(&bytes);
            assert_eq!((header.sensor(), header.len()), (Some(Sensor { width: 64, height: 48 }), text.len()), "{text}");
        }
        for text in ["", "%", "% end", "% geometry 0x48\n", "% geometry 64\n", "% width 64\n", "% geometry 99999x3\n"] {
            assert_eq!(Header::of(text.as_bytes()).sensor(), None, "{text}");
        }
        assert_eq!(Header::of(b"% \xff\xfe\n").len(), 0, "what is no text is no header");
    }
}
