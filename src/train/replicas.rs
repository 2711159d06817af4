//! Training on several devices in step: each holds all parameters and a part of the batch.
//!
//! The program of a device is that of its part. Once per update, after the last step of the sequence and before clipping, the devices add up
//! their gradients, losses and running statistics in one exchange ([`Tensor::all_reduce`]); then each makes the same update. So values
//! on all devices stay the same, and a checkpoint knows nothing of their number.
//!
//! Everything drawn belongs to a place in the whole batch, so results differ between numbers of devices by rounding alone. What
//! couples the sequences of a batch would not, and is refused: [`Parts::check`].

use std::{borrow::Cow, num::NonZeroUsize};

use hlo::{
    Program, Shape, Tensor,
    array::Array,
    pjrt::{Buffer, Executable},
};

use super::session::{Session, SessionError};
use crate::{
    cell::Model,
    learn::{self, LearnError, Objective},
};

/// Parameters, slots and count of one device.
pub(super) type OfDevice = (Vec<Buffer>, Vec<Buffer>, Buffer);

/// Everything that training changes, on the device.
pub struct TrainState {
    /// Parameters, trained and fixed, in the model's order.
    pub params: Vec<Buffer>,
    /// Optimiser state.
    pub slots: Vec<Buffer>,
    /// Updates so far, `s32[]`.
    pub count: Buffer,
    /// The same values on the other devices.
    others: Vec<OfDevice>,
}

impl TrainState {
    /// On one device.
    pub fn new(params: Vec<Buffer>, slots: Vec<Buffer>, count: Buffer) -> TrainState {
        TrainState { params, slots, count, others: Vec::new() }
    }

    /// On all devices of a session, those of this process.
    ///
    /// # Errors
    /// When a device cannot hold it.
    pub fn upload(
        session: &Session,
        params: &[Array],
        slots: &[Array],
        count: &Array,
    ) -> Result<TrainState, SessionError> {
        let on = |device: usize| -> Result<OfDevice, SessionError> {
            let all =
                |arrays: &[Array]| arrays.iter().map(|a| session.client.upload_to(a, device)).collect::<Result<_, _>>();
            Ok((all(params)?, all(slots)?, session.client.upload_to(count, device)?))
        };
        Ok(TrainState::together((0..session.here().len()).map(on).collect::<Result<_, _>>()?))
    }

    /// Values that are the same on each device.
    pub(super) fn together(mut devices: Vec<OfDevice>) -> TrainState {
        let others = devices.split_off(1);
        let Some((params, slots, count)) = devices.pop() else { unreachable!("there is a device") };
        TrainState { params, slots, count, others }
    }

    /// Those of each device.
    pub(super) fn each(self) -> impl Iterator<Item = OfDevice> {
        std::iter::once((self.params, self.slots, self.count)).chain(self.others)
    }

    /// The parameters on each device.
    pub fn params_of_each(&self) -> impl Iterator<Item = &[Buffer]> {
        std::iter::once(&self.params[..]).chain(self.others.iter().map(|(params, ..)| &params[..]))
    }
}

/// How a batch is divided among devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts(pub usize);

impl Parts {
    /// One device has the whole batch.
    pub const ONE: Parts = Parts(1);

    /// How many there are.
    pub fn count(self) -> NonZeroUsize {
        NonZeroUsize::new(self.0).unwrap_or(NonZeroUsize::MIN)
    }

    /// Sequences of each part of a batch.
    ///
    /// # Errors
    /// When the batch does not divide.
    pub fn of(self, batch: usize) -> Result<usize, LearnError> {
        if batch.is_multiple_of(self.0) {
            return Ok(batch / self.0);
        }
        let (below, above) = (batch - batch % self.0, batch.next_multiple_of(self.0));
        let sizes = if below == 0 { above.to_string() } else { format!("{below} or {above}") };
        Err(LearnError::Setting(format!(
            "each replica takes the same number of sequences, got a batch of {batch} for {} replicas; use a batch of {sizes} (--batch_size), \
             or another number of replicas",
            self.0
        )))
    }

    /// Refuses what would not be the same with another number of replicas.
    ///
    /// # Errors
    /// When model, objective or rule couple the sequences of a batch.
    pub fn check(self, model: &Model, objective: &Objective, rule: &dyn learn::Rule) -> Result<(), LearnError> {
        let coupled = if objective.regularized() {
            Some(
                "a regulariser of potentials or rates is a function of their mean over the batch (--v_reg_factor, --spk_reg_factor)",
            )
        } else if rule.projection().is_some() {
            Some("uoro has one trace for all sequences of a batch")
        } else {
            model.couples_sequences.as_deref()
        };
        match coupled.filter(|_| self.0 > 1) {
            None => Ok(()),
            Some(what) => Err(LearnError::Setting(format!(
                "replicas see a part of the batch each, but {what}, and that of a part is another; leave it out, or use --replicas 1"
            ))),
        }
    }

    /// Compiles a program for each of the devices.
    ///
    /// # Errors
    /// When the session has another number of devices, or XLA refuses.
    pub(super) fn compile(self, session: &Session, program: &Program) -> Result<Executable, SessionError> {
        if self.0 != session.replicas() {
            return Err(SessionError::Parts { parts: self.0, replicas: session.replicas() });
        }
        Ok(session.client.compile(program, &session.options)?)
    }

    /// The part of each device, cut along `axis`.
    pub(super) fn cut(self, array: &Array, axis: usize) -> Vec<Cow<'_, Array>> {
        if self.0 == 1 {
            return vec![Cow::Borrowed(array)];
        }
        let shape = array.shape();
        let mut dims = shape.dims.clone();
        dims[axis] /= self.0;
        let part = Shape::new(shape.dtype, dims);
        let run = shape.dtype.bytes() * part.dims[axis..].iter().product::<usize>();
        let mut parts = vec![Vec::with_capacity(part.bytes()); self.0];
        for (k, bytes) in array.bytes().chunks_exact(run.max(1)).enumerate() {
            parts[k % self.0].extend_from_slice(bytes);
        }
        let array = |bytes| Array::from_bytes(part.clone(), bytes);
        parts.into_iter().filter_map(|bytes| Some(Cow::Owned(array(bytes).ok()?))).collect()
    }

    /// The shape of the whole of something whose part has `shape`, cut along `axis`.
    pub(super) fn whole(self, shape: &Shape, axis: usize) -> Shape {
        let mut dims = shape.dims.clone();
        dims[axis] *= self.0;
        Shape::new(shape.dtype, dims)
    }

    /// How much a part says of a mean over real sequences (a class below 0 fills up a batch), a scalar: 1 without padding, so that nothing is
    /// rounded there. Nothing on one device.
    pub(super) fn share(self, objective: &Objective, target: &Tensor) -> Option<Tensor> {
        (self.0 > 1).then(|| objective.real(target).mean_all())
    }

    /// Means over the whole batch, of means over a part: those of `counted` over its real sequences, those of `tracked` over all; and where
    /// `counts` is asked for, whether any part has a real sequence. One exchange.
    pub(super) fn mean(
        self,
        counted: Vec<Tensor>,
        tracked: Vec<Tensor>,
        share: Option<&Tensor>,
        counts: Option<Tensor>,
    ) -> Means {
        let Some(share) = share else { return Means { counted, tracked, counts } };
        let n = counted.len();
        let weighted = counted.iter().map(|x| x * share.broadcast_to(x.dims()));
        let mut sums = Tensor::all_reduce(&weighted.chain(tracked).chain([share.clone()]).collect::<Vec<_>>());
        let Some(shares) = sums.pop() else { unreachable!("one sum for each array") };
        // Gradients are zero where there is no real sequence.
        let divisor = shares.maximum(&shares.full_like(1e-9));
        let tracked = sums.split_off(n).into_iter().map(|x| x * (1.0 / self.0 as f64)).collect();
        let counted = sums.iter().map(|x| x / divisor.broadcast_to(x.dims())).collect();
        Means { counted, tracked, counts: counts.map(|_| shares.gt(&shares.zeros_like())) }
    }
}

/// What the devices say together.
pub(super) struct Means {
    pub counted: Vec<Tensor>,
    pub tracked: Vec<Tensor>,
    /// Whether a step counts anywhere, `pred[]`; nothing where all do.
    pub counts: Option<Tensor>,
}
