//! Names of devices and of the plugins that drive them.

use super::error::Error;
use std::{fmt, str::FromStr};

/// A kind of plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PluginKind {
    /// The processor.
    Cpu,
    /// NVIDIA GPUs.
    Cuda,
    /// Google TPUs.
    Tpu,
}

impl PluginKind {
    /// All kinds.
    pub const ALL: [PluginKind; 3] = [PluginKind::Cpu, PluginKind::Cuda, PluginKind::Tpu];

    /// `cpu`, `cuda` or `tpu`.
    pub const fn name(self) -> &'static str {
        match self {
            PluginKind::Cpu => "cpu",
            PluginKind::Cuda => "cuda",
            PluginKind::Tpu => "tpu",
        }
    }

    /// The environment variable that names a plugin file of this kind.
    pub const fn env_var(self) -> &'static str {
        match self {
            PluginKind::Cpu => "ETRACE_CPU_PLUGIN",
            PluginKind::Cuda => "ETRACE_CUDA_PLUGIN",
            PluginKind::Tpu => "ETRACE_TPU_PLUGIN",
        }
    }

    /// The command that installs a plugin of this kind, for error messages.
    pub(crate) fn advice(self) -> String {
        format!("run `etrace plugin install {}`, or set {} to the path of a plugin", self.name(), self.env_var())
    }
}

impl fmt::Display for PluginKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PluginKind {
    type Err = Error;

    /// As [`Device`], without a number.
    fn from_str(text: &str) -> Result<PluginKind, Error> {
        match text {
            "cuda" | "gpu" => Ok(PluginKind::Cuda),
            "cpu" => Ok(PluginKind::Cpu),
            "tpu" => Ok(PluginKind::Tpu),
            _ => Err(Error::DeviceName { text: text.to_owned() }),
        }
    }
}

/// A device to run on. Parsed from `cpu`, `cuda`, `cuda:N`, `gpu`, `gpu:N`, `tpu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Device {
    /// The processor.
    Cpu,
    /// The NVIDIA GPU of this number.
    Cuda(u32),
    /// The first TPU core.
    Tpu,
}

impl Device {
    /// The plugin that drives this device.
    pub const fn kind(self) -> PluginKind {
        match self {
            Device::Cpu => PluginKind::Cpu,
            Device::Cuda(_) => PluginKind::Cuda,
            Device::Tpu => PluginKind::Tpu,
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cuda(number) => write!(f, "cuda:{number}"),
            other => f.write_str(other.kind().name()),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Device, Error> {
        let bad = || Error::DeviceName { text: text.to_owned() };
        match text.split_once(':') {
            Some(("cuda" | "gpu", number)) => number.parse().map(Device::Cuda).map_err(|_| bad()),
            Some(_) => Err(bad()),
            None => Ok(match text.parse::<PluginKind>()? {
                PluginKind::Cpu => Device::Cpu,
                PluginKind::Cuda => Device::Cuda(0),
                PluginKind::Tpu => Device::Tpu,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_and_print() {
        for (text, device) in [
            ("cpu", Device::Cpu),
            ("cuda", Device::Cuda(0)),
            ("gpu", Device::Cuda(0)),
            ("cuda:3", Device::Cuda(3)),
            ("tpu", Device::Tpu),
        ] {
            assert_eq!(text.parse::<Device>().unwrap(), device);
            assert_eq!(device.to_string().parse::<Device>().unwrap(), device);
        }
    }

    #[test]
    fn other_words_are_errors() {
        for text in ["", "CPU", "cpu:1", "cuda:", "cuda:-1", "npu"] {
            let error = text.parse::<Device>().unwrap_err().to_string();
            assert_eq!(error, format!("`{text}` names no device; use cpu, cuda, cuda:N, gpu or tpu"));
        }
    }
}
