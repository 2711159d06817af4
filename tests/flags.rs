//! Flags as people mistype them: what is refused, and that nothing is written before.

use std::process::{Command, Output, Stdio};

fn etrace(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etrace"));
    command.args(words).stdin(Stdio::null()).current_dir(std::env::temp_dir());
    command.output().expect("the built command starts")
}

/// The usage error of a command line, on one line.
#[track_caller]
fn refused(line: &str) -> String {
    let output = etrace(&line.split_whitespace().collect::<Vec<_>>());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "etrace {line}\n{error}");
    assert!(error.starts_with("error: "), "{error}");
    error.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn values_outside_their_range_name_flag_rule_and_value() {
    let out = std::env::temp_dir().join(format!("etrace-flags-{}", std::process::id()));
    for (line, want) in [
        ("dms --tau_neu nan", "--tau_neu must be above 0 and finite, got NaN"),
        ("dms --tau_neu -5", "--tau_neu must be above 0 and finite, got -5"),
        ("dms --tau_syn inf", "--tau_syn must be above 0 and finite, got inf"),
        ("dms --tau_I2 0", "--tau_I2 must be above 0 and finite, got 0"),
        ("dms --dt 0", "--dt must be above 0 and finite, got 0"),
        ("dms --A2 nan", "--A2 must be finite, got NaN"),
        ("dms --acc_th 95", "--acc_th must be from 0 to 1, got 95"),
        ("dms --lr x", "--lr must be a number, above 0 and finite, got `x`"),
        ("dms --n_rec 0", "--n_rec must be at least 1, got 0"),
        ("dms --n_rec 18446744073709551615", "--n_rec must be at most 16777216, got 18446744073709551615"),
        ("dms --batch_size -1", "--batch_size must be at least 1, got -1"),
        ("dms --epochs 18446744073709551615", "--epochs must be at most"),
        ("dms --n_data_worker 1000000", "--n_data_worker must be at most 1024"),
        ("dms --etrace_decay 1.0", "--etrace_decay must be a decay"),
        ("dms --etrace_decay -0.1", "--etrace_decay must be a decay"),
        ("dms --weight_L2 -1", "--weight_L2 must be at least 0 and finite, got -1"),
        ("dms --spk_reg_factor inf", "--spk_reg_factor must be at least 0 and finite, got inf"),
        ("ei --threshold 90", "--acc_th must be from 0 to 1, got 90"),
        ("ei --sparsity 0", "--sparsity must be above 0 and at most 1, got 0"),
        ("ei --tau-th -100", "--tau_th must be above 0 and finite, got -100"),
        ("ei --n_rec 4", "--n_rec must be at least 5, got 4"),
        ("shd --pdrop 1", "--pdrop must be at least 0 and below 1, got 1"),
        ("shd --nb_hiddens 0", "--n_rec must be at least 1, got 0"),
        ("shd --threshold nan", "--threshold must be above 0 and finite, got NaN"),
        ("shd --train_threshold 95", "--train_threshold must be from 0 to 1, got 95"),
        ("shd --max_time 0", "--max_time must be a number of seconds above 0"),
        ("gesture --threshold-mean 1", "--threshold-mean must be between 0 and 1, got 1"),
        ("gesture --learning-rate 0", "--lr must be above 0 and finite, got 0"),
        ("gesture --made-samples 0 5", "--made-samples must be at least 1, got 0"),
        ("memspeed --length 0", "--length must be at least 1, got 0"),
        ("memspeed --repeats 0", "--repeats must be at least 1, got 0"),
        ("memspeed --rate 2", "--rate must be from 0 to 1, got 2"),
        ("memspeed --warmup_ratio 200 --length 100", "--warmup_ratio must leave a step"),
        ("analyze theorem3 --rec-scale 1,-2", "--rec_scale must be at least 0 and finite, got -2"),
        ("analyze weight-gradient-cosine --frac_sim 1", "--frac_sim must be at least 0 and below 1, got 1"),
        ("explain dms --steps 0", "--steps must be at least 1, got 0"),
        ("train dms-small --epochs -1", "--epochs must be at least 0, got -1"),
    ] {
        let with_out =
            if line.starts_with("explain") { line.into() } else { format!("{line} --out {}", out.display()) };
        let error = refused(&with_out);
        assert!(error.contains(want), "{line}: `{want}` is missing from: {error}");
        assert!(!out.exists(), "{line} wrote something");
    }
}

#[test]
fn a_flag_of_another_command_is_not_taken_for_a_short_form() {
    for (line, parts) in [
        ("gesture --threshold 0.5", ["--threshold", "--threshold-mean"]),
        ("dms --data x", ["--data", "--dataset"]),
        ("ei --train 3", ["--train", "'--"]),
        ("dms --tau_nue 3", ["--tau_nue", "--tau_neu"]),
    ] {
        let error = refused(line);
        for part in parts {
            assert!(error.contains(part), "{line}: `{part}` is missing from: {error}");
        }
    }
}

#[test]
fn the_spellings_of_a_flag_mean_the_same_and_help_shows_them() {
    let dry = |line: &str| {
        let line = format!("{line} --dry-run -q");
        let output = etrace(&line.split_whitespace().collect::<Vec<_>>());
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split_once(" steps; ").map(|(config, _)| config.to_string()).expect("a program")
    };
    const SMALL: &str = "--dt 5 --batch-size 4";
    for (one, other) in [
        (format!("dms --n_rec 8 {SMALL} --tau_I2 900"), format!("dms --n-rec 8 {SMALL} --tau-i2=900")),
        (format!("ei --n_rec 8 {SMALL} --acc_th 0.8"), format!("ei --n_r 8 {SMALL} --threshold 0.8")),
        (
            "gesture --dataset made --n_rec 8 --lr 0.01 --epochs 3 --frame-size 32".to_string(),
            "gesture --dataset made --units 8 --learning_rate 0.01 --train-epochs 3 --frame_size 32".to_string(),
        ),
    ] {
        assert_eq!(dry(&one), dry(&other), "{one}");
    }
    for (command, names) in [
        ("shd", ["nb_hiddens", "nb_epochs"]),
        ("gesture", ["units", "learning-rate"]),
        ("ei", ["threshold", "vjp_time"]),
        ("dms", ["num_workers", "vjp_time"]),
    ] {
        let help = String::from_utf8_lossy(&etrace(&[command, "--help"]).stdout).into_owned();
        for name in names {
            assert!(
                help.contains("alias") && help.contains(&format!("--{name}")),
                "{command}: {name} is missing from\n{help}"
            );
        }
    }
}
