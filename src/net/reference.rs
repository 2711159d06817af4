//! The models of the reference cases, by name: what `etrace verify` replays.
//!
//! Equations: `docs/spec/reference-cases.md, "Models"`. Where a case calls a parameter or state otherwise than the model
//! does, `rename` gives it the name of the case.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{EiNet, GifNet, RateNet, Stack, ei_net};
use crate::cell::{
    Dense, Init, Model, StateInit, StepContext, Surrogate,
    rate::RateCell,
    readout,
    spiking::{
        AdLif, Alif, Connection, Delta, ExpCo, ExpCu, Gif4, Input, Lif, Neuron, NeuronConfig, Population, Reset,
        SynapseConfig, Tau, conductance::split, exponential,
    },
};
use crate::settings::range;

/// A field that a case needs and does not have as it must be.
#[derive(Debug, thiserror::Error)]
#[error(
    "the description of the case must give `hyper.{0}`, but it is missing, of the wrong type or out of range; check the JSON file"
)]
pub struct MissingHyper(String);

/// The description of a case.
struct Case<'a>(&'a Value);

impl Case<'_> {
    fn hyper(&self, name: &str) -> Result<&Value, MissingHyper> {
        self.0.get("hyper").and_then(|h| h.get(name)).ok_or_else(|| MissingHyper(name.into()))
    }

    fn number(&self, name: &str) -> Result<f64, MissingHyper> {
        let number = self.hyper(name)?.as_f64().filter(|x| range::FINITE.check(*x).is_ok());
        number.ok_or_else(|| MissingHyper(name.into()))
    }

    /// The first of several names that is there.
    fn any_number(&self, names: &[&str]) -> Result<f64, MissingHyper> {
        names.iter().find_map(|name| self.number(name).ok()).ok_or_else(|| MissingHyper(names.join("` or `hyper.")))
    }

    fn size(&self, name: &str) -> Result<usize, MissingHyper> {
        let size = self.hyper(name)?.as_u64().filter(|n| range::SIZE.check(*n).is_ok());
        size.map(|n| n as usize).ok_or_else(|| MissingHyper(name.into()))
    }

    /// A number, or a list of numbers (perhaps the only entry of a list).
    fn tau(&self, value: &Value) -> Option<Tau> {
        let tau = match value {
            Value::Array(list) if list.len() == 1 => self.tau(&list[0]),
            Value::Array(list) => {
                list.iter().map(|v| v.as_f64().map(|x| x as f32)).collect::<Option<_>>().map(Tau::PerNeuron)
            }
            number => number.as_f64().map(Tau::Scalar),
        };
        tau.filter(|tau| tau.check().is_ok())
    }

    fn any_tau(&self, names: &[&str]) -> Result<Tau, MissingHyper> {
        let found = names.iter().find_map(|name| self.tau(self.hyper(name).ok()?));
        found.ok_or_else(|| MissingHyper(names.join("` or `hyper.")))
    }

    /// A number for all layers, or a list with one entry (a number, or a list of numbers) for each.
    fn taus(&self, name: &str, layers: usize) -> Result<Vec<Tau>, MissingHyper> {
        let wrong = || MissingHyper(name.into());
        match self.hyper(name)? {
            Value::Array(list) if list.len() == layers => list.iter().map(|v| self.tau(v).ok_or_else(wrong)).collect(),
            one => Ok(vec![self.tau(one).ok_or_else(wrong)?; layers]),
        }
    }

    /// Names and shapes of the arrays below `prefix/`.
    fn arrays(&self, prefix: &str) -> BTreeMap<String, Vec<usize>> {
        let all = self.0.get("tensors").and_then(Value::as_object).into_iter().flatten();
        let dims =
            |v: &Value| v.as_array().into_iter().flatten().filter_map(|d| d.as_u64().map(|d| d as usize)).collect();
        all.filter_map(|(name, v)| Some((name.strip_prefix(prefix)?.strip_prefix('/')?.to_string(), dims(v)))).collect()
    }
}

/// The model of a reference case from its description (the JSON file); `None` when this project has no such model.
///
/// # Errors
/// When the description of the case lacks a field.
pub fn model(case: &str, description: &Value, batch: usize) -> Result<Option<Model>, MissingHyper> {
    let c = Case(description);
    let model = match case {
        "lif_delta_soft" | "lif_delta_3layer" => spiking(&c, Reset::Soft, false, Delta::default().into(), batch)?,
        "lif_delta_hard" => spiking(&c, Reset::Hard, false, Delta::default().into(), batch)?,
        "lif_expcu" => spiking(&c, Reset::Soft, false, ExpCu { tau: c.number("tau_syn")? }.into(), batch)?,
        "alif_expcu" => spiking(&c, Reset::Soft, true, ExpCu { tau: c.number("tau_syn")? }.into(), batch)?,
        "lif_expco_ei" => spiking(&c, Reset::Soft, false, ExpCo { tau: c.number("tau_syn")? }.into(), batch)?,
        "gif_dms" => gif_dms(&c, batch)?,
        "gif_coba_ei" => gif_coba_ei(&c, batch)?,
        "radlif" => radlif(&c, batch)?,
        other => match RateCell::by_name(other) {
            Some(cell) => rate(&c, cell, batch)?,
            None => return Ok(None),
        },
    };
    Ok(Some(rename(model, &c)))
}

/// Layers of LIF or ALIF neurons.
fn spiking(
    c: &Case,
    reset: Reset,
    adaptive: bool,
    synapse: SynapseConfig,
    batch: usize,
) -> Result<Model, MissingHyper> {
    let neuron = |tau: Tau| -> Result<NeuronConfig, MissingHyper> {
        let lif = Lif { tau, reset, ..Lif::default() };
        Ok(if adaptive { Alif::of(lif, c.number("tau_a")?, c.number("beta")?).into() } else { lif.into() })
    };
    let layer = |tau: Tau| -> Result<Stack, MissingHyper> {
        tau.check_size(c.size("n_rec")?).map_err(|_| MissingHyper("tau_mem".into()))?;
        Ok(Stack {
            n_in: c.size("n_in")?,
            n_rec: c.size("n_rec")?,
            n_out: c.size("n_out")?,
            tau_o: c.number("tau_o")?,
            neuron: neuron(tau)?,
            synapse: synapse.clone(),
            ..Stack::default()
        })
    };
    let layers = c.size("n_layer").unwrap_or(1);
    range::LAYERS.check(layers as u64).map_err(|_| MissingHyper("n_layer".into()))?;
    let taus = c.taus("tau_mem", layers)?;
    let layers = taus.into_iter().map(layer).collect::<Result<Vec<_>, _>>()?;
    if layers.is_empty() {
        return Err(MissingHyper("tau_mem".into()));
    }
    Ok(Stack::of_layers(batch, &layers))
}

fn rate(c: &Case, cell: RateCell, batch: usize) -> Result<Model, MissingHyper> {
    let linear = c.hyper("readout").is_ok_and(|kind| kind == "linear");
    let tau_o = if linear { 0.0 } else { c.number("tau_o")? };
    let (n_in, n_rec, n_out) = (c.size("n_in")?, c.size("n_rec")?, c.size("n_out")?);
    Ok(RateNet { cell, n_in, n_rec, n_out, tau_o, ..RateNet::default() }.model(batch))
}

fn gif_dms(c: &Case, batch: usize) -> Result<Model, MissingHyper> {
    let net = GifNet {
        n_in: c.size("n_in")?,
        n_rec: c.size("n_rec")?,
        n_out: c.size("n_out")?,
        tau_neu: c.any_tau(&["tau_neu", "tau_mem", "tau"])?,
        tau_syn: c.number("tau_syn")?,
        tau_i2: c.any_tau(&["tau_I2", "tau_i2"])?,
        a2: c.any_number(&["A2", "a2"])?,
        tau_o: c.number("tau_o")?,
        ..GifNet::default()
    };
    Ok(net.model(batch))
}

/// [`EiNet`] with all connections and a synapse of its own for the input.
fn gif_coba_ei(c: &Case, batch: usize) -> Result<Model, MissingHyper> {
    let (n_in, n, n_out) = (c.size("n_in")?, c.size("n_rec")?, c.size("n_out")?);
    let (tau_syn, tau_o) = (c.number("tau_syn")?, c.number("tau_o")?);
    let net = EiNet {
        n_rec: n,
        tau_neu: Tau::Scalar(c.number("tau_neu")?),
        tau_i2: c.number("tau_I2")?,
        a2: c.number("A2")?,
        tau_i1: c.number("tau_I1")?,
        a1: c.number("A1")?,
        tau_th: c.number("tau_th")?,
        a_th: c.number("Ath")?,
        ..EiNet::default()
    };
    let gif = Gif4 { v_init: StateInit::Zeros, ..net.neuron() };
    Ok(StepContext::trace(batch, n_in, |cx, x| {
        let at = Population { n, dt: 1.0 };
        let (s_exc, s_inh) = split(&gif.last_spike(cx, at));
        let input =
            [("ff", x, ei_net::EXCITATORY), ("exc", &s_exc, ei_net::EXCITATORY), ("inh", &s_inh, ei_net::INHIBITORY)]
                .into_iter()
                .fold(Input::default(), |input, (name, from, reversal)| {
                    let all = Connection::Rectified { density: 1.0 };
                    let y = all.apply(cx, name, &[from], n, &[Init::KaimingNormal(1.0)]);
                    input.conductance(&exponential(cx, &format!("g_{name}"), tau_syn, 1.0, &y), reversal)
                });
        let u = gif.step(cx, at, &input);
        readout::leaky(cx, &u, n_out, tau_o, 1.0)
    }))
}

/// The recurrent adaptive LIF of the speech benchmark, no neuron connected to itself.
fn radlif(c: &Case, batch: usize) -> Result<Model, MissingHyper> {
    let (n_in, n, n_out, tau_o) = (c.size("n_in")?, c.size("n_rec")?, c.size("n_out")?, c.number("tau_o")?);
    let bias = c.arrays("param").contains_key("W.bias");
    let cell = AdLif {
        n,
        adaptive: true,
        alpha: AdLif::ALPHA,
        threshold: 1.0,
        init: StateInit::Zeros,
        surrogate: Surrogate::Boxcar { width: 0.5 },
    };
    Ok(StepContext::trace(batch, n_in, |cx, x| {
        let s = cell.last_spike(cx);
        let init = [Init::KaimingUniform(1.0)];
        let wx = cx.dense("W", &[x], n, &Dense { bias, ..Dense::new(&init) });
        let vs = AdLif::recurrence(cx, "V", &s, Init::KaimingNormal(1.0));
        let u = cell.step(cx, &(wx + vs));
        readout::leaky(cx, &u, n_out, tau_o, 1.0)
    }))
}

/// Gives parameters and states the names that the case uses for them: the same name; else one that differs in punctuation
/// or in the prefix of the layer only; else one that adds a letter for the time (`ut` for `u`); else the only array of that shape and
/// kind that is left.
fn rename(mut model: Model, case: &Case) -> Model {
    let params = model.params.iter_mut().filter(|p| p.trainable).map(|p| (&mut p.name, &p.shape.dims)).collect();
    adopt(params, case.arrays("param"));
    adopt(model.states.iter_mut().map(|s| (&mut s.name, &s.shape.dims)).collect(), case.arrays("init_state"));
    model
}

fn adopt(mut ours: Vec<(&mut String, &Vec<usize>)>, mut theirs: BTreeMap<String, Vec<usize>>) {
    let essence = |name: &str| -> String {
        let name = name.strip_prefix("l0.").unwrap_or(name);
        let name = name.strip_suffix(".weight").unwrap_or(name);
        name.chars().filter(char::is_ascii_alphanumeric).collect()
    };
    let kind = |name: &str| name.ends_with(".bias");
    type Same<'a> = &'a dyn Fn(&str, &str) -> bool;
    let timed = |a: &str, b: &str| essence(b).strip_suffix('t').is_some_and(|b| b == essence(a));
    let rules: [Same; 4] =
        [&|a, b| a == b, &|a, b| essence(a) == essence(b), &|a, b| timed(a, b), &|a, b| kind(a) == kind(b)];
    let last = rules.len() - 1;
    for (k, same) in rules.into_iter().enumerate() {
        ours.retain_mut(|(name, dims)| {
            let fits = |(their, shape): &(&String, &Vec<usize>)| shape == dims && same(name, their);
            let mut fitting = theirs.iter().filter(fits);
            let Some(found) = fitting.next().map(|(their, _)| their.clone()) else { return true };
            if k == last && fitting.next().is_some() {
                return true;
            }
            theirs.remove(&found);
            **name = found;
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A description with the given hyper-parameters and `param/` and `init_state/` arrays.
    fn description(hyper: &Value, params: &[(&str, &[usize])], states: &[(&str, usize)]) -> Value {
        let mut all = json!({"n_in": 4, "n_rec": 5, "n_out": 3, "tau_o": 5.0});
        all.as_object_mut().expect("an object").extend(hyper.as_object().expect("an object").clone());
        let entry = |name: String, dims: &[usize]| {
            let entry: Vec<Value> = dims.iter().map(|d| json!(d)).chain([json!("float32")]).collect();
            (name, Value::Array(entry))
        };
        let params = params.iter().map(|(name, dims)| entry(format!("param/{name}"), dims));
        let states = states.iter().map(|(name, n)| entry(format!("init_state/{name}"), &[2, *n]));
        json!({"hyper": all, "tensors": params.chain(states).collect::<serde_json::Map<_, _>>()})
    }

    /// Builds a case and checks that the model bears exactly its names, with its shapes.
    #[track_caller]
    fn bears(case: &str, hyper: Value, params: &[(&str, &[usize])], states: &[(&str, usize)]) {
        let description = description(&hyper, params, states);
        let model = model(case, &description, 2).expect("all fields are there").expect("a known case");
        let mut ours: Vec<(&str, &[usize])> =
            model.params.iter().filter(|p| p.trainable).map(|p| (p.name.as_str(), &p.shape.dims[..])).collect();
        let mut theirs = params.to_vec();
        ours.sort();
        theirs.sort();
        assert_eq!(ours, theirs, "{case}");
        let mut ours: Vec<(&str, usize)> = model.states.iter().map(|s| (s.name.as_str(), s.shape.dims[1])).collect();
        let mut theirs = states.to_vec();
        ours.sort();
        theirs.sort();
        assert_eq!(ours, theirs, "{case}");
    }

    const LAYER: [(&str, &[usize]); 3] = [("l0.weight", &[9, 5]), ("l0.bias", &[5]), ("out.weight", &[5, 3])];

    #[test]
    fn cases_of_one_map_bear_the_names_of_the_file() {
        let hyper = json!({"tau_mem": [[5.0, 5.0, 5.0, 5.0, 5.0]], "n_layer": 1});
        bears("lif_delta_hard", hyper, &LAYER, &[("l0.V", 5), ("out.r", 3)]);
        let hyper = json!({"tau_mem": 5.0, "tau_syn": 10.0, "tau_a": 20.0, "beta": 0.3});
        bears("alif_expcu", hyper, &LAYER, &[("l0.V", 5), ("l0.a", 5), ("l0.g", 5), ("out.r", 3)]);
    }

    #[test]
    fn names_without_the_prefix_of_a_layer_are_taken_over() {
        let hyper = json!({"tau_neu": 10.0, "tau_syn": 5.0, "tau_I2": [40.0, 50.0, 60.0, 70.0, 80.0], "A2": 0.3});
        let states = [("V", 5), ("I2", 5), ("g", 5), ("out.r", 3)];
        bears("gif_dms", hyper.clone(), &LAYER, &states);
        bears("gif_dms", hyper, &[("W.weight", &[9, 5]), ("W.bias", &[5]), ("out.weight", &[5, 3])], &states);
    }

    #[test]
    fn rate_cells_bear_the_names_of_the_file() {
        let out: (&str, &[usize]) = ("out.weight", &[5, 3]);
        let gates: [(&str, &[usize]); 4] =
            [("Wf.weight", &[9, 5]), ("Wf.bias", &[5]), ("Wh.weight", &[9, 5]), ("Wh.bias", &[5])];
        bears("mgu", json!({"kind": "mgu"}), &[&gates[..], &[out]].concat(), &[("h", 5), ("out.r", 3)]);
        let maps: [(&str, &[usize]); 5] =
            [("phi.weight", &[4, 5]), ("phi.bias", &[5]), ("W_u.weight", &[10, 5]), ("W_u.bias", &[5]), out];
        bears("minimal_rnn", json!({}), &maps, &[("h", 5), ("out.r", 3)]);
    }

    #[test]
    fn the_speech_neuron_bears_the_names_of_the_file() {
        let states = [("u", 5), ("w", 5), ("s", 5), ("out.r", 3)];
        let timed = [("ut", 5), ("wt", 5), ("st", 5), ("out.r", 3)];
        let maps: [(&str, &[usize]); 3] = [("W.weight", &[4, 5]), ("V.weight", &[5, 5]), ("out.weight", &[5, 3])];
        let plain: [(&str, &[usize]); 4] = [("alpha", &[5]), ("beta", &[5]), ("a", &[5]), ("b", &[5])];
        bears("radlif", json!({}), &[&maps[..], &plain].concat(), &states);
        bears("radlif", json!({}), &[&maps[..], &plain].concat(), &timed);
        let suffixed: [(&str, &[usize]); 5] =
            [("alpha.weight", &[5]), ("beta.weight", &[5]), ("a.weight", &[5]), ("b.weight", &[5]), ("W.bias", &[5])];
        bears("radlif", json!({}), &[&maps[..], &suffixed].concat(), &states);
    }

    #[test]
    fn a_missing_constant_is_named() {
        let description = description(&json!({"tau_syn": 5.0}), &[], &[]);
        let error = model("gif_dms", &description, 2).expect_err("tau_neu is missing").to_string();
        assert!(error.contains("hyper.tau_neu"), "{error}");
        assert!(model("no such case", &description, 2).expect("no field is needed").is_none());
    }
}
