//! Exact gradients, forward in time: the Jacobian of all states by all parameters and by the states at the entry.

use super::{Judge, jacobian::Source};

/// Exact derivatives of the summed loss of some steps.
pub struct Exact {
    /// By parameter.
    pub params: Vec<Vec<f64>>,
    /// By state before the first of the steps.
    pub entry: Vec<Vec<f64>>,
}

impl Judge<'_> {
    /// Derivatives of the loss of steps `from..to`, of which those before `counted` carry no loss.
    pub fn exact(&self, from: usize, to: usize, counted: usize) -> Exact {
        let (n_params, n_states) = (self.step.params, self.step.states);
        let mut sources: Vec<Source> = (0..n_params).map(Source::Param).collect();
        sources.extend((0..n_states).map(Source::Old));
        let mut results = self.new_states(&(0..n_states).collect::<Vec<_>>());
        results.push(self.step.loss());
        let sizes: Vec<usize> =
            self.step.func.params()[..n_params + n_states].iter().map(|t| t.shape().elements()).collect();
        let width: usize = sizes.iter().sum();
        let start = |k: usize| sizes[..k].iter().sum::<usize>();
        // Rows: elements of the states. Columns: parameters, then states at the entry.
        let size = |s: usize| sizes[n_params + s];
        let mut carried: Vec<Vec<Vec<f64>>> = (0..n_states).map(|s| vec![vec![0.0; width]; size(s)]).collect();
        for (s, rows) in carried.iter_mut().enumerate() {
            rows.iter_mut().enumerate().for_each(|(i, row)| row[start(n_params + s) + i] = 1.0);
        }
        let mut total = vec![0.0; width];
        let jacobian = super::Jacobian::new(&self.step, &sources, &[], &results);
        for t in from..to {
            let m = jacobian.at(&self.points[t]);
            // Derivative of one element of a result by every column.
            let row = |result: usize, i: usize| -> Vec<f64> {
                let mut row = vec![0.0; width];
                for p in 0..n_params {
                    (0..sizes[p]).for_each(|j| row[start(p) + j] += m.get(result, i, p, j));
                }
                for (s, rows) in carried.iter().enumerate() {
                    for (j, by) in rows.iter().enumerate() {
                        let factor = m.get(result, i, n_params + s, j);
                        if factor != 0.0 {
                            row.iter_mut().zip(by).for_each(|(sum, v)| *sum += factor * v);
                        }
                    }
                }
                row
            };
            if t >= counted {
                total.iter_mut().zip(row(n_states, 0)).for_each(|(sum, v)| *sum += v);
            }
            let next = (0..n_states).map(|s| (0..size(s)).map(|i| row(s, i)).collect()).collect();
            carried = next;
        }
        let pick = |k: usize| total[start(k)..][..sizes[k]].to_vec();
        Exact { params: (0..n_params).map(pick).collect(), entry: (n_params..n_params + n_states).map(pick).collect() }
    }
}
