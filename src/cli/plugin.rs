//! `etrace plugin`: the libraries that drive devices.

use clap::{Subcommand, ValueEnum};
use hlo::pjrt::{self, PluginKind};

use super::{
    Global, OrUsage,
    common::{InstallBar, print},
};
use crate::report::{Align, Table};

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the plugins on this machine, preferred ones first
    List,
    /// Fetch a plugin into the user's cache folder
    Install {
        /// Which plugin
        #[arg(value_enum, value_name = "KIND")]
        which: Which,
    },
    /// Print the path of the plugin that a run would load
    Path {
        /// Which plugin [default: that of --device]
        #[arg(value_enum, value_name = "KIND")]
        which: Option<Which>,
    },
}

/// Plugins by the names of their packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Which {
    /// The processor.
    Cpu,
    /// NVIDIA GPUs, CUDA 12 libraries.
    #[value(alias = "cuda")]
    Cuda12,
    /// NVIDIA GPUs, CUDA 13 libraries.
    Cuda13,
    /// Google TPUs.
    Tpu,
}

impl Which {
    fn kind(self) -> PluginKind {
        match self {
            Which::Cpu => PluginKind::Cpu,
            Which::Cuda12 | Which::Cuda13 => PluginKind::Cuda,
            Which::Tpu => PluginKind::Tpu,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// When a plugin cannot be fetched, or there is none.
pub fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    match args.action {
        Action::List => list(),
        Action::Install { which } => install(which, global),
        Action::Path { which } => path(which.map_or(global.device.kind(), Which::kind)),
    }
}

fn list() -> anyhow::Result<()> {
    let mut table = Table::new([
        ("kind", Align::Left),
        ("PJRT API", Align::Left),
        ("found as", Align::Left),
        ("file", Align::Left),
    ]);
    let mut broken = String::new();
    for plugin in pjrt::installed() {
        let version = match &plugin.api_version {
            Ok((major, minor)) => format!("{major}.{minor}"),
            Err(why) => {
                broken.push_str(&format!("\n\nunusable: {why}"));
                "unusable".into()
            }
        };
        table.row([plugin.kind.to_string(), version, plugin.origin.to_string(), plugin.path.display().to_string()]);
    }
    if table.is_empty() {
        return print("no plugin is installed; run `etrace plugin install cpu` (or cuda12, cuda13, tpu)");
    }
    print(&format!("{table}{broken}"))
}

fn install(which: Which, global: &Global) -> anyhow::Result<()> {
    if which == Which::Cuda13 {
        let error = anyhow::anyhow!(
            "etrace installs the plugin for CUDA 12, which drivers for CUDA 13 run as well, but not one for CUDA 13; \
             run `etrace plugin install cuda12`, or `pip install jax-cuda13-pjrt[with_cuda]` in the active Python environment, where etrace finds it"
        );
        return Err(error).or_usage();
    }
    let mut bar = InstallBar::new(global);
    let path = pjrt::install(which.kind(), &mut |p| bar.show(p));
    bar.finish();
    print(&path?.display().to_string())
}

fn path(kind: PluginKind) -> anyhow::Result<()> {
    let found = pjrt::installed().into_iter().find(|p| p.kind == kind && p.api_version.is_ok());
    let missing = || anyhow::anyhow!("no usable {kind} plugin is on this machine; run `etrace plugin install {kind}`");
    let found = found.ok_or_else(missing).or_usage()?;
    print(&found.path.display().to_string())
}
