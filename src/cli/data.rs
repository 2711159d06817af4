//! `etrace data`: what is in a data directory, and a plain copy of it. And what all commands share that read recordings: the flags that say
//! what is accepted, the remarks of the readers, the fit of an experiment to its data.

use std::path::PathBuf;

use clap::Subcommand;
use tasks::{
    ConvertSettings, GestureSettings, NMnistSettings, ShdKind, ShdSettings, Split, Task,
    events::{Accept, Disorder, Sensor, TimeUnit},
};

use super::{
    Failed, Global, OrUsage, Usage,
    common::{existing_directory, print},
    flags::inside,
    usage,
};
use crate::experiment::Experiment;

/// What is accepted of recordings; the same flags for every command that reads them.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct ReadFlags {
    /// Sort events that are not in order of time, in place of refusing the recording
    #[arg(long, help_heading = "Data")]
    sort_events: bool,
    /// Unit of the times in the files, s, ms, us or ns, where it is not that of the format (docs/data.md)
    #[arg(long, value_name = "UNIT", value_parser = time_unit, help_heading = "Data")]
    time_unit: Option<TimeUnit>,
    /// Size of the camera in pixels, columns x rows, where the recordings do not say (folders of classes; DVS128 Gesture is 128x128)
    #[arg(long, value_name = "WxH", help_heading = "Data")]
    sensor: Option<Sensor>,
}

impl ReadFlags {
    /// What they accept.
    pub fn accept(self) -> Accept {
        let disorder = if self.sort_events { Disorder::Sort } else { Disorder::Refuse };
        Accept { disorder, time_unit: self.time_unit, sensor: self.sensor }
    }

    /// Gestures, or recordings of any classes, read as they say.
    pub fn gestures(self, dir: impl Into<PathBuf>) -> GestureSettings {
        let Accept { disorder, time_unit, sensor } = self.accept();
        GestureSettings { disorder, time_unit, sensor, ..GestureSettings::new(dir) }
    }

    /// N-MNIST read as they say.
    ///
    /// # Errors
    /// With a size of the camera.
    pub fn digits(self, dir: impl Into<PathBuf>) -> anyhow::Result<NMnistSettings> {
        self.no_sensor("N-MNIST has 34x34 pixels")?;
        let Accept { disorder, time_unit, .. } = self.accept();
        Ok(NMnistSettings { disorder, time_unit, ..NMnistSettings::new(dir) })
    }

    /// SHD or SSC read as they say.
    ///
    /// # Errors
    /// With a size of the camera.
    pub fn speech(self, dir: impl Into<PathBuf>, kind: ShdKind) -> anyhow::Result<ShdSettings> {
        self.no_sensor("SHD and SSC have none")?;
        Ok(ShdSettings { time_unit: self.time_unit, ..ShdSettings::new(dir, kind) })
    }

    /// Refuses a size of the camera, with a reason.
    ///
    /// # Errors
    /// With one.
    pub fn no_sensor(self, reason: &str) -> Result<(), Usage> {
        let refuse =
            |s: Sensor| usage(format!("--sensor is for folders of recordings, got {s} where {reason}; leave it out"));
        self.sensor.map_or(Ok(()), |s| Err(refuse(s)))
    }
}

fn time_unit(text: &str) -> Result<TimeUnit, String> {
    let unit = TimeUnit::ALL.into_iter().find(|u| u.name() == text);
    unit.ok_or_else(|| format!("a unit is {}", TimeUnit::ALL.map(TimeUnit::name).join(", ")))
}

/// [`Experiment::fit_to_data`], with a remark where the batch becomes smaller.
///
/// # Errors
/// When the training set cannot be read: the user's mistake.
pub fn fit(all: &mut Experiment, task: &dyn Task, epochs_per_fall: Option<u64>, global: &Global) -> anyhow::Result<()> {
    let wanted = all.settings.batch;
    all.fit_to_data(task, epochs_per_fall).or_usage()?;
    let batch = all.settings.batch;
    if batch < wanted {
        global.remark(&format!("a batch of {wanted} is more than the {batch} training samples: batches have {batch}"));
    }
    Ok(())
}

/// Says on standard error what the readers remarked on the splits.
///
/// # Errors
/// When a split cannot be read.
pub fn remark(task: &dyn Task, splits: &[Split], global: &Global) -> anyhow::Result<()> {
    for &split in splits {
        task.remarks(split)?.iter().for_each(|text| global.remark(&format!("remark on the {split} split: {text}")));
    }
    Ok(())
}

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Read every file that a task would read; say what is there and what is damaged
    Check {
        /// Directory with data (NMNIST/, SHD/, DVSGesture/, .h5 files, train/ and test/ with a folder for each class or with caches of tonic)
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        #[command(flatten)]
        read: ReadFlags,
    },
    /// Write a data set in one plain layout that every command reads: folders of classes with .npy files, or .h5 files for spike trains
    Convert {
        /// Directory with one data set
        #[arg(value_name = "SRC")]
        source: PathBuf,
        /// Directory that is made; it appears when all is written
        #[arg(long, value_name = "DST")]
        out: PathBuf,
        /// Share of every class that is tested, where SRC is one folder of classes without train/ and test/
        #[arg(long, value_name = "SHARE", value_parser = inside)]
        test_share: Option<f64>,
        #[command(flatten)]
        read: ReadFlags,
    },
}

/// Runs the command.
///
/// # Errors
/// When there is no data, or some cannot be used.
pub fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    match args.action {
        Action::Check { dir, read } => {
            existing_directory(&dir, "`data check` reads a directory", "name the folder that holds the data set")?;
            let report = tasks::check(&dir, read.accept()).or_usage()?;
            print(&report.to_string())?;
            if report.is_sound() { Ok(()) } else { Err(Failed.into()) }
        }
        Action::Convert { source, out, test_share, read } => {
            existing_directory(&source, "`data convert` reads a directory", "name the folder that holds the data set")?;
            let settings = ConvertSettings { accept: read.accept(), test_share };
            let done = tasks::convert(&source, &out, settings).map_err(|error| match error {
                tasks::Error::Setting { .. } | tasks::Error::Missing { .. } => Usage(error.into()).into(),
                other => anyhow::Error::from(other),
            })?;
            done.remarks.iter().for_each(|text| global.remark(text));
            print(&done.to_string())
        }
    }
}
