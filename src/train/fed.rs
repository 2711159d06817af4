//! What a step takes, brought to the devices.

use hlo::{array::Array, pjrt::Buffer};

use super::{
    replicas::Parts,
    session::{Session, SessionError},
};

/// What a step takes and leaves, on each device of this process: the learning rate, drawn states, inputs and targets.
pub struct Fed(pub(super) Vec<Vec<Buffer>>);

impl Fed {
    /// Cuts arrays, and brings each device of this process its part: `drawn` are those of a whole batch, `inputs` and `target` have the
    /// rows of this process alone.
    ///
    /// # Errors
    /// When a device cannot hold it.
    pub fn upload(
        session: &Session,
        parts: Parts,
        lr: Option<f32>,
        drawn: &[Array],
        inputs: &Array,
        target: &Array,
    ) -> Result<Fed, SessionError> {
        let here = session.here();
        let mut on: Vec<Vec<Buffer>> = here.clone().map(|_| Vec::new()).collect();
        if let Some(lr) = lr {
            let lr = session.upload_to_all(&Array::scalar_of(lr))?;
            on.iter_mut().zip(lr).for_each(|(on, lr)| on.push(lr));
        }
        for array in drawn {
            for (k, part) in parts.cut(array, 0)[here.clone()].iter().enumerate() {
                on[k].push(session.client.upload_to(part, k)?);
            }
        }
        // Targets are [B], or [T, B, ..].
        for (array, axis) in [(inputs, 1), (target, usize::from(target.shape().rank() > 1))] {
            for (k, part) in Parts(here.len()).cut(array, axis).iter().enumerate() {
                on[k].push(session.client.upload_to(part, k)?);
            }
        }
        Ok(Fed(on))
    }
}

#[cfg(test)]
mod tests {
    use hlo::{
        DType, Shape,
        pjrt::{ClientOptions, Device, Devices, Plugin, PluginKind},
    };

    use super::*;

    /// Of four replicas a process has the last two: it takes their part of what is drawn, and the rows that it loaded.
    #[test]
    fn a_process_feeds_its_own_devices() {
        let plugin = Plugin::find(PluginKind::Cpu, None, &mut |_| {}).unwrap();
        let options = ClientOptions { devices: Devices::Count(4.try_into().unwrap()), ..ClientOptions::default() };
        let session = Session::on(&plugin, Device::Cpu, &options).unwrap().pretend(2..4);
        let drawn = Array::f32((0..8).map(|k| k as f32).collect::<Vec<_>>(), [8, 1]).unwrap();
        // Two steps of the four rows that are here, one channel.
        let inputs = Array::from_bytes(Shape::new(DType::U8, [2, 4, 1]), vec![4, 5, 6, 7, 14, 15, 16, 17]).unwrap();
        let target = Array::s32([4, 5, 6, 7], [4]).unwrap();
        let Fed(on) = Fed::upload(&session, Parts(4), None, &[drawn], &inputs, &target).unwrap();
        let found: Vec<_> = on
            .iter()
            .map(|on| {
                let [drawn, inputs, target] = [0, 1, 2].map(|k| on[k].to_array().unwrap());
                (drawn.to_vec::<f32>().unwrap(), inputs.bytes().to_vec(), target.to_vec::<i32>().unwrap())
            })
            .collect();
        assert_eq!(
            found,
            [(vec![4.0, 5.0], vec![4, 5, 14, 15], vec![4, 5]), (vec![6.0, 7.0], vec![6, 7, 16, 17], vec![6, 7])]
        );
    }
}
