//! What a program takes and returns, and the checks before a call: a plugin compares no more than sizes in bytes.

use super::{
    super::{
        client::Client,
        error::{Error, Result},
        options::CompileOptions,
    },
    Arg,
};
use crate::{Program, proto::OpSharding, shape::Shape};
use std::sync::Arc;

/// What a call is checked against, per device.
pub(super) struct Signature {
    pub program: String,
    /// The device of each list of arguments.
    pub devices: Vec<usize>,
    pub arguments: Vec<Slot>,
    /// Shapes of the results, shared with the buffers that a run returns.
    pub results: Vec<Arc<Shape>>,
}

pub(super) struct Slot {
    name: String,
    shape: Shape,
    /// Name of the result that takes the buffer over.
    donated_to: Option<String>,
}

impl Signature {
    pub fn new(
        program: &Program,
        options: &CompileOptions,
        results: Vec<Arc<Shape>>,
        devices: Vec<usize>,
    ) -> Signature {
        let parameters = program.module.entry().map_or(&[][..], |entry| &entry.instructions);
        let partitioned = options.partitions.get() > 1;
        let slot = |(index, argument): (usize, &crate::Argument)| {
            let sharding = parameters
                .iter()
                .find(|i| i.opcode == "parameter" && i.parameter_number == index as i64)
                .and_then(|i| i.sharding.as_ref())
                .filter(|_| partitioned);
            Slot {
                name: argument.name.clone(),
                shape: piece(&argument.shape, sharding),
                donated_to: argument
                    .donated_to
                    .map(|to| program.results.get(to).map_or_else(|| format!("#{to}"), |result| result.name.clone())),
            }
        };
        Signature {
            program: program.module.name.clone(),
            devices,
            arguments: program.arguments.iter().enumerate().map(slot).collect(),
            results,
        }
    }

    /// Compares the arguments for one device with the program.
    pub fn check(&self, arguments: &[Arg<'_>], client: &Arc<Client>, device: usize) -> Result<()> {
        if arguments.len() != self.arguments.len() {
            return Err(Error::ArgumentCount {
                program: self.program.clone(),
                expected: self.arguments.len(),
                got: arguments.len(),
                names: self.arguments.iter().map(|slot| slot.name.clone()).collect(),
            });
        }
        for (index, (argument, slot)) in arguments.iter().zip(&self.arguments).enumerate() {
            let buffer = argument.buffer();
            let (program, name) = (|| self.program.clone(), || slot.name.clone());
            if *buffer.shape != slot.shape {
                return Err(Error::ArgumentShape {
                    program: program(),
                    index,
                    name: name(),
                    expected: slot.shape.clone(),
                    got: Shape::clone(&buffer.shape),
                });
            }
            if let (Arg::Keep(_), Some(result)) = (argument, &slot.donated_to) {
                return Err(Error::Donated { program: program(), index, name: name(), result: result.clone() });
            }
            if !Arc::ptr_eq(&buffer.client, client) {
                return Err(Error::OtherClient { program: program(), index, name: name() });
            }
            // XLA finds it while some devices run already, and those wait for the others for ever.
            if buffer.device != device {
                let got = buffer.device;
                return Err(Error::OtherDevice { program: program(), index, name: name(), expected: device, got });
            }
        }
        Ok(())
    }
}

/// The piece of a value that one device holds.
fn piece(whole: &Shape, sharding: Option<&OpSharding>) -> Shape {
    match sharding {
        Some(s) if s.kind == OpSharding::OTHER => {
            let cuts = s.tile_assignment_dimensions.iter().map(|&n| n.max(1) as usize);
            let dims: Vec<usize> = whole.dims.iter().zip(cuts).map(|(&size, n)| size.div_ceil(n)).collect();
            whole.with_dims(dims)
        }
        _ => whole.clone(),
    }
}
