//! Counter-based random numbers: the very values, and that they look random.

mod common;

use common::*;
use hlo::{
    DType, Func, Mapped, Shape, Tensor,
    array::Array,
    random::{bits, uniform},
    scan, scan_whole,
    transform::vmap,
};

/// The same hash in Rust.
fn hash(words: &[u32]) -> u32 {
    let mix = |x: u32| {
        let x = (x ^ (x >> 16)).wrapping_mul(0x21f0_aaad);
        let x = (x ^ (x >> 15)).wrapping_mul(0x735a_2d97);
        x ^ (x >> 15)
    };
    words.iter().fold(0x9e37_79b9, |h, &w| mix(h ^ mix(w)))
}

fn words(dims: &[usize]) -> Shape {
    Shape::new(DType::U32, dims)
}

/// Bits for words given as arrays of one length.
fn drawn(columns: &[Vec<u32>]) -> Vec<u32> {
    let shapes = vec![words(&[columns[0].len()]); columns.len()];
    let f = Func::trace(&shapes, |_, p| vec![bits(&p.iter().collect::<Vec<_>>())]);
    let args: Vec<Array> = columns.iter().map(|c| Array::new(c, [c.len()]).unwrap()).collect();
    compile(&f).run(&args)[0].to_vec().unwrap()
}

/// Integer arithmetic wraps, and constants keep all 32 bits.
#[test]
fn integers_wrap() {
    let x = [0u32, 1, 0x8000_0000, 0xffff_ffff, 0x0123_4567, 0xdead_beef];
    let y = [u32::MAX, 7, 0xffff_0000, 0xffff_ffff, 0x89ab_cdef, 0x1234_5678];
    type Row = (fn(&Tensor, &Tensor) -> Tensor, fn(u32, u32) -> u32);
    let rows: Vec<Row> = vec![
        (|a, b| a + b, u32::wrapping_add),
        (|a, b| a - b, u32::wrapping_sub),
        (|a, b| a * b, u32::wrapping_mul),
        (|a, _| a * f64::from(u32::MAX), |a, _| a.wrapping_mul(u32::MAX)),
        (|a, _| a + 4294967294.0, |a, _| a.wrapping_add(4294967294)),
        (|a, _| a.full_like(4294967295.0), |_, _| u32::MAX),
        (|a, _| a.full_like(2147483649.0), |_, _| 2147483649),
        (|a, _| -a, |a, _| a.wrapping_neg()),
        (Tensor::bit_and, |a, b| a & b),
        (Tensor::bit_or, |a, b| a | b),
        (Tensor::xor, |a, b| a ^ b),
        (|a, _| a.xor(&a.full_like(4294967295.0)), |a, _| !a),
        (|a, _| a.shift_left(5), |a, _| a << 5),
        (|a, _| a.shift_right(31), |a, _| a >> 31),
        (|a, _| a.shift_right(32), |_, _| 0),
        (|a, _| a.shift_left(40), |_, _| 0),
        (Tensor::maximum, u32::max),
        (|a, b| a.lt(b).select(a, b), u32::min),
        (|a, _| a.shift_right(8).convert(DType::F32).convert(DType::U32), |a, _| a >> 8),
        (|a, _| a.graph().iota(a.shape().clone(), 0), |_, _| 0),
    ];
    let f = Func::trace(&[words(&[6]), words(&[6])], |_, p| rows.iter().map(|(f, _)| f(&p[0], &p[1])).collect());
    let args = [x, y].map(|v| Array::new(&v, [6]).unwrap());
    let results = compile(&f).run(&args);
    let (counter, results) = results.split_last().unwrap();
    assert_eq!(counter.to_vec::<u32>().unwrap(), [0, 1, 2, 3, 4, 5]);
    for (k, (got, (_, want))) in results.iter().zip(&rows).enumerate() {
        let want: Vec<u32> = x.iter().zip(&y).map(|(&a, &b)| want(a, b)).collect();
        assert_eq!(got.to_vec::<u32>().unwrap(), want, "row {k}");
    }

    // Of a signed integer, too, zeros come in from above; flags are one bit.
    let f = Func::trace(&[Shape::s32([3])], |_, p| {
        let negative = p[0].lt(&p[0].zeros_like());
        vec![p[0].shift_right(28), p[0].xor(&p[0].full_like(-1.0)), negative.xor(&p[0].ne(&p[0].zeros_like()))]
    });
    let got = evaluate(&f, &[Array::new(&[-1i32, 5, i32::MIN], [3]).unwrap()]);
    assert_eq!(got, [[15.0, 0.0, 8.0], [0.0, -6.0, 2147483647.0], [0.0, 1.0, 0.0]]);
}

#[test]
fn bits_are_the_hash() {
    let random = &mut Random(1);
    let columns: Vec<Vec<u32>> =
        (0..3).map(|_| (0..64).map(|k| if k < 8 { k } else { random.next() as u32 }).collect()).collect();
    for n in 1..=3 {
        let want: Vec<u32> = (0..64).map(|k| hash(&columns[..n].iter().map(|c| c[k]).collect::<Vec<_>>())).collect();
        assert_eq!(drawn(&columns[..n]), want, "{n} words");
    }
    // Computed elsewhere, so that the two cannot change together.
    assert_eq!(drawn(&[vec![0], vec![1]]), [0xefeb_6e5c]);
}

#[test]
fn uniform_values() {
    let f = Func::trace(&[words(&[5])], |_, p| vec![uniform(&p[0])]);
    let x = [0u32, 255, 256, 0x8000_0000, u32::MAX];
    let got: Vec<f32> = compile(&f).run(&[Array::new(&x, [5]).unwrap()])[0].to_vec().unwrap();
    assert_eq!(got, [0.0, 0.0, 1.0 / 16777216.0, 0.5, 1.0 - 1.0 / 16777216.0]);
}

const N: u32 = 100_000;

/// Correlation of two lists of bits, as numbers in [-1/2, 1/2].
fn correlation(a: &[u32], b: &[u32]) -> f64 {
    let centred = |x: u32| (f64::from(x) + 0.5) / 4294967296.0 - 0.5;
    12.0 * a.iter().zip(b).map(|(&a, &b)| centred(a) * centred(b)).sum::<f64>() / a.len() as f64
}

/// Five standard deviations: of 10^5 draws, one honest generator in a million fails a question.
#[test]
fn counters_look_random() {
    let five = 5.0 / f64::from(N).sqrt();
    let counters: Vec<u32> = (0..N).collect();
    for key in [0, 1, 2, 0xffff_ffff] {
        let x = drawn(&[vec![key; N as usize], counters.clone()]);
        let numbers: Vec<f64> = x.iter().map(|&x| f64::from(x >> 8) / 16777216.0).collect();
        let mean = numbers.iter().sum::<f64>() / f64::from(N);
        let variance = numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / f64::from(N);
        assert!((mean - 0.5).abs() < five * (1.0f64 / 12.0).sqrt(), "key {key}: mean {mean}");
        // The variance of (x - 1/2)² is 1/180.
        assert!((variance - 1.0 / 12.0).abs() < five * (1.0f64 / 180.0).sqrt(), "key {key}: variance {variance}");
        for bit in 0..32 {
            let ones = x.iter().filter(|x| *x >> bit & 1 == 1).count() as f64 / f64::from(N);
            assert!((ones - 0.5).abs() < five * 0.5, "key {key}, bit {bit}: {ones} ones");
        }
        // One counter against the next.
        for apart in [1, 2, 256] {
            let r = correlation(&x[apart..], &x[..x.len() - apart]);
            assert!(r.abs() < five * 1.01, "key {key}, {apart} apart: correlation {r}");
            let changed: u32 = x[apart..].iter().zip(&x).map(|(a, b)| (a ^ b).count_ones()).sum();
            let share = f64::from(changed) / 32.0 / (x.len() - apart) as f64;
            assert!((share - 0.5).abs() < five * 0.5, "key {key}, {apart} apart: {share} of the bits change");
        }
        // 256 equal bins of the upper bits: chi² of 255 degrees, mean 255, deviation 22.6.
        let mut bins = [0.0; 256];
        x.iter().for_each(|x| bins[(x >> 24) as usize] += 1.0);
        let expected = f64::from(N) / 256.0;
        let chi: f64 = bins.iter().map(|n| (n - expected) * (n - expected) / expected).sum();
        assert!((chi - 255.0).abs() < 5.0 * 22.6, "key {key}: chi² {chi}");
    }
}

#[test]
fn neighbouring_keys_are_unrelated() {
    let five = 5.0 / f64::from(N).sqrt();
    let counters: Vec<u32> = (0..N).collect();
    let stream = |key: u32| drawn(&[vec![key; N as usize], counters.clone()]);
    for (a, b) in [(0, 1), (1, 2), (7, 8), (0, 0x8000_0000)] {
        let (x, y) = (stream(a), stream(b));
        let r = correlation(&x, &y);
        assert!(r.abs() < five, "keys {a} and {b}: correlation {r}");
        // Of two unrelated lists of 10^5 numbers out of 2^32, 2.3 pairs agree on average.
        let seen: std::collections::HashSet<u32> = x.into_iter().collect();
        let common = y.iter().filter(|y| seen.contains(y)).count();
        assert!(common < 15, "keys {a} and {b}: {common} numbers in common");
    }
    // And down the keys at one counter.
    let x = drawn(&[counters.clone(), vec![3; N as usize]]);
    let r = correlation(&x[1..], &x[..x.len() - 1]);
    assert!(r.abs() < five * 1.01, "neighbouring keys: correlation {r}");
}

/// Mapped, in a loop, or all at once: the same numbers.
#[test]
fn however_they_are_drawn() {
    let draw = |keys: &Tensor, step: &Tensor| {
        let g = keys.graph();
        let shape = words(&[4, 5]);
        let key = keys.broadcast(&[4, 5], &[0]);
        uniform(&bits(&[&key, step, &g.iota(shape, 1)]))
    };
    let f = Func::trace(&[words(&[4])], |g, p| {
        let steps = g.iota(words(&[6]), 0);
        let at_once: Vec<Tensor> = (0..6).map(|t| draw(&p[0], &g.scalar(DType::U32, f64::from(t)))).collect();
        let one = Func::trace(&[words(&[4]), words(&[])], |_, p| vec![draw(&p[0], &p[1])]);
        let args = [(p[0].clone(), false), (steps, true)].map(|(tensor, mapped)| Mapped { tensor, mapped });
        let mapped = vmap(g, &one, &args, 6).get(one.results()[0].value()).tensor.clone();
        let body = Func::trace(&[words(&[]), words(&[4])], |_, p| vec![&p[0] + 1.0, draw(&p[1], &p[0])]);
        let zero = [g.scalar(DType::U32, 0.0)];
        let hoisted = scan(g, &body, 6, false, &zero, &[], p).1.swap_remove(0);
        let inside = scan_whole(g, &body, 6, false, &zero, &[], p).1.swap_remove(0);
        vec![Tensor::stack(&at_once.iter().collect::<Vec<_>>()), mapped, hoisted, inside]
    });
    let keys = [11u32, 12, 13, 14];
    let got = evaluate(&f, &[Array::new(&keys, [4]).unwrap()]);
    let want = (0..6).flat_map(|t| keys.iter().flat_map(move |&k| (0..5).map(move |u| hash(&[k, t, u]))));
    let want: Vec<f64> = want.map(|x| f64::from(x >> 8) / 16777216.0).collect();
    for (k, got) in got.iter().enumerate() {
        assert_close(&format!("way {k}"), got, &want, 0.0);
    }
}
