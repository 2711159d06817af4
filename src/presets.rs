//! The published experiments, and small ones, as values: what the commands start from, what `etrace explain` and `etrace train` take
//! by name.

use tasks::{
    Copying, DmsSettings, EvidenceSettings, GestureSettings, Passes, Pattern, RandomSpikes, ShdSettings, Split, Tail,
    Task,
};

use crate::{
    cell::{rate::CELLS, spiking::Tau},
    experiment::{Experiment, NetConfig, TaskConfig},
    learn::{LossKind, Method, Objective, Vjp, objective::OfSum, objective::Regularizer, sequence::LearnerConfig},
    net::{ETraceNet, EiNet, GestureCell, GestureNet, GifNet, RateNet, SpeechCell, SpeechNet},
    settings::{Listed, SettingError, node::choices, table::plain},
    train::{
        optimizer::{Optimizer, Rule, Schedule},
        settings::Settings,
    },
};

/// An experiment with a name.
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// What it is, in one line.
    pub doc: &'static str,
    /// The experiment.
    pub experiment: fn() -> Experiment,
    /// Passes over the data set after which the learning rate falls, again and again, where it does;
    /// [`Experiment::fit_to_data`] turns them into updates of the data at hand.
    pub epochs_per_fall: Option<u64>,
}

const fn preset(name: &'static str, doc: &'static str, experiment: fn() -> Experiment) -> Preset {
    Preset { name, doc, experiment, epochs_per_fall: None }
}

/// Epochs after which the learning rate of the speech experiments falls.
pub const SPEECH_FALL: u64 = 10;
/// Epochs after which the learning rate of the gesture experiments falls.
pub const GESTURE_FALL: u64 = 100;

/// All presets.
pub const PRESETS: &[Preset] = &[
    preset("dms", "Delayed match-to-sample with GIF neurons: what `etrace dms` trains", dms),
    preset("dms-published", "The same with the settings of the published command line", dms_published),
    preset("dms-small", "The same, small: seconds to train", dms_small),
    preset("ei", "Evidence accumulation with excitatory and inhibitory neurons: what `etrace ei` trains", ei),
    preset("ei-small", "The same, small: three cues, a short delay", ei_small),
    Preset {
        epochs_per_fall: Some(SPEECH_FALL),
        ..preset("shd", "Spoken digits with LIF neurons: what `etrace shd` trains", shd)
    },
    Preset {
        epochs_per_fall: Some(SPEECH_FALL),
        ..preset("shd-lif", "Spoken digits, published size: LIF", || speech(SpeechCell::Lif))
    },
    Preset {
        epochs_per_fall: Some(SPEECH_FALL),
        ..preset("shd-rlif", "Spoken digits, published size: recurrent LIF", || speech(SpeechCell::Rlif))
    },
    Preset {
        epochs_per_fall: Some(SPEECH_FALL),
        ..preset("shd-adlif", "Spoken digits, published size: adaptive LIF", || speech(SpeechCell::Adlif))
    },
    Preset {
        epochs_per_fall: Some(SPEECH_FALL),
        ..preset("shd-radlif", "Spoken digits, published size: recurrent adaptive LIF", || speech(SpeechCell::Radlif))
    },
    Preset {
        epochs_per_fall: Some(GESTURE_FALL),
        ..preset("gesture", "Gestures before an event camera with an LSTM: what `etrace gesture` trains", gesture)
    },
    Preset {
        epochs_per_fall: Some(GESTURE_FALL),
        ..preset("gesture-published", "The same with convolutions and 1024 event-based GRUs", gesture_published)
    },
    preset("memspeed", "Time and memory of training on random spikes, size of a laptop", memspeed),
    preset("memspeed-laptop", "The same as memspeed", memspeed),
    preset("memspeed-published", "The same, published size", memspeed_published),
    preset("copying", "A GRU that copies three symbols after a silence: a class for each step", copying),
    preset("pattern", "LIF neurons that draw a curve by a clock: a number for each step", pattern),
];

impl Preset {
    /// A preset by its name.
    pub fn find(name: &str) -> Option<&'static Preset> {
        let name = plain(name);
        PRESETS.iter().find(|preset| preset.name == name)
    }
}

impl Experiment {
    /// A preset; or a layer (`alif-exp-cu`) or a rate cell (`gru`) alone, on random spikes.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn published(name: &str) -> Result<Experiment, SettingError> {
        if let Some(preset) = Preset::find(name) {
            return Ok((preset.experiment)());
        }
        let layer = NetConfig::composed(name).map(alone);
        layer.ok_or_else(|| {
            let names: Vec<&str> = PRESETS.iter().map(|p| p.name).collect();
            let cells: Vec<&str> = CELLS.iter().map(|row| row.name).collect();
            SettingError::new(format!(
                "no preset, layer or rate cell is called `{name}`; {}; a layer NEURON-SYNAPSE (lif_delta, alif_expcu, lif_expco, ...); a \
                 rate cell ({})",
                choices(name, &names),
                cells.join(", ")
            ))
        })
    }

    /// Counts in batches of the data at hand: no batch is larger than the training split, and the learning rate falls after so many
    /// passes.
    ///
    /// # Errors
    /// When the data cannot be read.
    pub fn fit_to_data(&mut self, task: &dyn Task, epochs_per_fall: Option<u64>) -> tasks::Result<()> {
        let Some(samples) = task.samples(Split::Train)? else { return Ok(()) };
        let most = usize::try_from(samples).unwrap_or(usize::MAX).max(1);
        self.settings.batch = self.settings.batch.min(most);
        let updates = task.batches(Split::Train, self.settings.batch)?.unwrap_or(1).max(1);
        if let (Some(epochs), Schedule::Step { every, .. }) = (epochs_per_fall, &mut self.optimizer.schedule) {
            *every = epochs.saturating_mul(updates);
        }
        Ok(())
    }
}

/// What the experiments of the first paper have in common.
fn first_paper(task: TaskConfig, net: NetConfig, learner: LearnerConfig) -> Experiment {
    let (rate, low, high) = (10.0 * net.dt() / 1000.0, -20.0, 1.4);
    Experiment {
        settings: Settings { batches: Some(10_000), checkpoint_every: 20, ..Settings::default() },
        learner,
        optimizer: Optimizer::default(),
        objective: Objective {
            regularizer: Regularizer { low, high, rate, ..Regularizer::default() },
            ..Objective::default()
        },
        task,
        net,
    }
}

/// Steps at the start of a generated task that carry no loss.
fn warmup(task: &TaskConfig) -> usize {
    task.timing().map_or(0, |(_, warmup)| warmup)
}

fn dms() -> Experiment {
    let task = TaskConfig::from(DmsSettings::default());
    let learner = LearnerConfig { method: Method::BPTT, warmup: warmup(&task), ..LearnerConfig::default() };
    let mut all = first_paper(task, GifNet::default().into(), learner);
    all.settings.stop_at = Some(0.95);
    all
}

fn dms_published() -> Experiment {
    let task = TaskConfig::from(DmsSettings { t_fixation: 10.0, ..DmsSettings::default() });
    let net = GifNet {
        tau_neu: Tau::Scalar(100.0),
        tau_syn: 100.0,
        tau_i2: GifNet::slow(1500.0),
        a2: 1.0,
        ff_scale: 6.0,
        ..GifNet::default()
    };
    let all = dms();
    let learner = LearnerConfig { warmup: warmup(&task), ..all.learner };
    let settings = Settings { batches: Some(2000), ..all.settings };
    Experiment { settings, learner, task, net: net.into(), ..dms() }
}

fn dms_small() -> Experiment {
    let task = TaskConfig::from(DmsSettings { dt: 5.0, t_fixation: 10.0, t_delay: 200.0, ..DmsSettings::default() });
    let net = GifNet { n_rec: 100, a2: 1.0, ff_scale: 40.0, dt: 5.0, ..GifNet::default() };
    let learner = LearnerConfig { method: Method::D_RTRL, warmup: warmup(&task), ..LearnerConfig::default() };
    let mut all = first_paper(task, net.into(), learner);
    all.settings = Settings { batch: 64, batches: Some(150), ..all.settings };
    all.optimizer.lr = 3e-3;
    all
}

fn ei() -> Experiment {
    let task = TaskConfig::from(EvidenceSettings::default());
    let vjp = Vjp::MultiStep { window: 1 };
    let learner = LearnerConfig { method: Method::BPTT, vjp, warmup: warmup(&task), ..LearnerConfig::default() };
    let mut all = first_paper(task, EiNet::default().into(), learner);
    all.settings.stop_at = Some(0.9);
    all.optimizer.schedule = Schedule::Step { every: 5, gamma: 0.9 };
    all
}

fn ei_small() -> Experiment {
    let task = TaskConfig::from(EvidenceSettings { cues: 3, t_delay: 100.0, ..EvidenceSettings::default() });
    let net = EiNet {
        n_rec: 100,
        tau_neu: Tau::Scalar(200.0),
        tau_i2: 2000.0,
        ff_scale: 4.0,
        rec_scale: 2.0,
        ..EiNet::default()
    };
    let vjp = Vjp::MultiStep { window: 1 };
    let learner = LearnerConfig { method: Method::D_RTRL, vjp, warmup: warmup(&task), ..LearnerConfig::default() };
    let mut all = first_paper(task, net.into(), learner);
    all.settings = Settings { batch: 64, batches: Some(150), ..all.settings };
    all.optimizer.schedule = Schedule::Step { every: 50, gamma: 0.9 };
    all
}

/// The network of `etrace shd` without flags.
pub fn shd_net() -> SpeechNet {
    SpeechNet { random_states: true, ..SpeechNet::default() }
}

fn shd() -> Experiment {
    let standard = ShdSettings::default();
    Experiment {
        settings: Settings {
            epochs: Some(5),
            evaluate: Some(Split::Valid.name().into()),
            select: true,
            ..Settings::default()
        },
        learner: LearnerConfig { method: Method::BPTT, vjp: Vjp::MultiStep { window: 1 }, ..LearnerConfig::default() },
        optimizer: Optimizer {
            rule: Rule::Adam,
            lr: 0.01,
            schedule: Schedule::Step { every: SPEECH_FALL, gamma: 0.9 },
            clip: 0.0,
            ..Optimizer::default()
        },
        objective: Objective { of_sum: OfSum::Always, ..Objective::default() },
        // No sample is left out: the last batch of an epoch is filled up with rows that do not count.
        task: ShdSettings { passes: Passes { train_tail: Tail::Pad, ..Passes::default() }, ..standard }.into(),
        net: shd_net().into(),
    }
}

fn speech(cell: SpeechCell) -> Experiment {
    let random_states = cell == SpeechCell::Lif;
    let mut all = shd();
    all.settings.epochs = Some(100);
    Experiment { net: SpeechNet { cell, hidden: vec![1024; 2], random_states, ..SpeechNet::default() }.into(), ..all }
}

/// The network of `etrace gesture` without flags.
pub fn gesture_net() -> GestureNet {
    GestureNet {
        cnn: false,
        dropout: 0.0,
        cell: GestureCell::Lstm,
        units: 256,
        steepness: 1.0,
        ..GestureNet::default()
    }
}

fn gesture() -> Experiment {
    Experiment {
        settings: Settings {
            batch: 256,
            epochs: Some(100),
            evaluate: Some(Split::Test.name().into()),
            ..Settings::default()
        },
        learner: LearnerConfig { method: Method::BPTT, vjp: Vjp::MultiStep { window: 1 }, ..LearnerConfig::default() },
        optimizer: Optimizer {
            schedule: Schedule::Step { every: GESTURE_FALL, gamma: 0.8 },
            clip: 0.0,
            ..Optimizer::default()
        },
        objective: Objective::default(),
        task: GestureSettings::default().into(),
        net: gesture_net().into(),
    }
}

fn gesture_published() -> Experiment {
    let mut all = gesture();
    all.settings = Settings { batch: 64, epochs: Some(500), ..all.settings };
    all.optimizer.schedule = Schedule::Step { every: GESTURE_FALL, gamma: 0.9 };
    let task = GestureSettings { augment: true, ..GestureSettings::default() };
    Experiment { net: GestureNet::default().into(), task: task.into(), ..all }
}

/// The network of the memory-and-speed evaluation in the size of a laptop.
pub fn memspeed_net() -> ETraceNet {
    ETraceNet { n_in: 2048, n_rec: 256, ..ETraceNet::default() }
}

fn memspeed() -> Experiment {
    measured(memspeed_net(), 16, 100)
}

fn memspeed_published() -> Experiment {
    measured(ETraceNet::default(), 128, 1000)
}

fn measured(net: ETraceNet, batch: usize, steps: usize) -> Experiment {
    let task = RandomSpikes { steps, n_in: net.n_in, n_out: net.n_out, ..RandomSpikes::default() };
    let learner = LearnerConfig { method: Method::BPTT, ..LearnerConfig::default() };
    let mut all = first_paper(task.into(), net.into(), learner);
    all.settings = Settings { batch, batches: Some(20), ..all.settings };
    all
}

/// A network by itself, on random spikes.
pub fn alone(net: NetConfig) -> Experiment {
    let task = RandomSpikes { steps: 100, n_in: net.n_in(), n_out: net.n_out(), rate: 0.1 };
    let mut all = first_paper(task.into(), net, LearnerConfig::default());
    all.settings.batches = Some(100);
    all
}

fn copying() -> Experiment {
    let task = TaskConfig::from(Copying { delay: 10, length: 3 });
    let net = NetConfig::by_name("gru").unwrap_or_else(|_| RateNet::default().into());
    let learner = LearnerConfig { method: Method::D_RTRL, warmup: warmup(&task), ..LearnerConfig::default() };
    let mut all = first_paper(task, net, learner);
    if let NetConfig::Rate(net) = &mut all.net {
        (net.n_in, net.n_rec, net.n_out) = (tasks::copying::SYMBOLS, 128, tasks::copying::SYMBOLS);
        net.tau_o = 0.0;
    }
    all.settings = Settings { batch: 64, batches: Some(1500), ..all.settings };
    all.optimizer.lr = 5e-3;
    all
}

fn pattern() -> Experiment {
    let task = Pattern::default();
    let (n_in, n_out) = (task.n_in, task.n_out);
    let net = NetConfig::composed("lif-exp-cu").unwrap_or_else(|| ETraceNet::default().into());
    let learner = LearnerConfig { method: Method::D_RTRL, ..LearnerConfig::default() };
    let mut all = first_paper(task.into(), net, learner);
    if let NetConfig::Stack(net) = &mut all.net {
        (net.n_in, net.n_out, net.rec_scale) = (n_in, n_out, 0.5);
    }
    // All trials are the same: one says everything.
    all.settings = Settings { batch: 1, batches: Some(2000), ..all.settings };
    all.optimizer.lr = 3e-3;
    all.optimizer.schedule = Schedule::Step { every: 500, gamma: 0.5 };
    all.objective.loss = LossKind::Mse;
    all
}
