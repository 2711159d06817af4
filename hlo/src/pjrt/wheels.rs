//! Which wheels hold the plugins, with the SHA-256 of each.
//!
//! The hashes are those of the package index on the day the version was chosen. A wheel with another hash is
//! refused, so nothing that is loaded into the process can change without a change of this file.

use super::device::PluginKind;
use std::path::{Path, PathBuf};

/// What is installed for one kind.
pub(super) struct Package {
    pub(super) kind: PluginKind,
    /// Names the folder.
    pub(super) version: &'static str,
    /// Path of the plugin file inside the folder.
    pub(super) plugin: &'static str,
    wheels: &'static [Wheel],
}

/// One wheel, for one processor.
pub(super) struct Wheel {
    arch: &'static str,
    pub(super) name: &'static str,
    pub(super) version: &'static str,
    /// Platform tag.
    pub(super) platform: &'static str,
    /// Python version, for wheels that exist once per version.
    pub(super) python: Option<&'static str>,
    /// Size, for the progress bar.
    pub(super) bytes: Option<u64>,
    /// Needed to run on a GPU but not to compile for one: fetched only where there is one.
    with_gpu: bool,
    pub(super) sha256: &'static str,
}

pub(super) fn package(kind: PluginKind) -> &'static Package {
    match kind {
        PluginKind::Cpu => &CPU,
        PluginKind::Cuda => &CUDA,
        PluginKind::Tpu => &TPU,
    }
}

impl Package {
    /// Where this package lies under the user's cache folder.
    pub(super) fn destination(&self, root: &Path) -> PathBuf {
        root.join("plugins").join(format!("{}-{}", self.kind, self.version))
    }

    /// The plugin file under the user's cache folder.
    pub(super) fn plugin_under(&self, root: &Path) -> PathBuf {
        self.destination(root).join(self.plugin)
    }

    /// The wheels that this machine needs; none if none is published for it.
    pub(super) fn wheels_here(&self) -> Vec<&'static Wheel> {
        let gpu = Path::new("/proc/driver/nvidia/version").exists();
        let here = |wheel: &&Wheel| wheel.arch == std::env::consts::ARCH && (gpu || !wheel.with_gpu);
        self.wheels.iter().filter(here).collect()
    }
}

impl Wheel {
    /// Name and version.
    pub(super) fn title(&self) -> String {
        format!("{} {}", self.name, self.version)
    }
}

const CPU: Package = Package {
    kind: PluginKind::Cpu,
    version: "0.0.1",
    plugin: "xla_plugins/xla_cpu_pjrt/xla_cpu_pjrt.so",
    wheels: &[
        Wheel {
            arch: "x86_64",
            name: "xla-cpu-pjrt",
            version: "0.0.1",
            platform: "manylinux_2_27_x86_64",
            python: None,
            bytes: Some(63_461_052),
            with_gpu: false,
            sha256: "55837b6b7b47daa717f2d9a5a03563ea0ceaa338d06a81a1e2d3f060d960decc",
        },
        Wheel {
            arch: "aarch64",
            name: "xla-cpu-pjrt",
            version: "0.0.1",
            platform: "manylinux_2_27_aarch64",
            python: None,
            bytes: Some(49_514_947),
            with_gpu: false,
            sha256: "8f613be6e891858f40d64f9799319502fff42689661944fc18a6ffd8210b30c9",
        },
    ],
};

// The plugin, the assembler it runs (`nvidia-cuda-nvcc-cu12`), and the libraries it opens when it runs.
const CUDA: Package = Package {
    kind: PluginKind::Cuda,
    version: "12-0.12.0.1",
    plugin: "jax_plugins/xla_cuda12/xla_cuda_plugin.so",
    wheels: &[
        Wheel {
            arch: "x86_64",
            name: "jax-cuda12-pjrt",
            version: "0.12.0.1",
            platform: "manylinux_2_27_x86_64",
            python: None,
            bytes: Some(191_846_358),
            with_gpu: false,
            sha256: "5ec28e06198d094031c37590b4ea753ae8cde4879ab4b60baf40f0dffb673286",
        },
        Wheel {
            arch: "x86_64",
            name: "nvidia-cublas-cu12",
            version: "12.9.3.13",
            platform: "manylinux_2_27_x86_64",
            python: None,
            bytes: None,
            with_gpu: true,
            sha256: "d7d51055f161b317c7105ddaae90e71eda059026074ffef93cf7cde2886bfe72",
        },
        Wheel {
            arch: "x86_64",
            name: "nvidia-cuda-cupti-cu12",
            version: "12.8.90",
            platform: "manylinux_2_17_x86_64",
            python: None,
            bytes: None,
            with_gpu: true,
            sha256: "ea0cb07ebda26bb9b29ba82cda34849e73c166c18162d3913575b0c9db9a6182",
        },
        Wheel {
            arch: "x86_64",
            name: "nvidia-cuda-nvcc-cu12",
            version: "12.9.86",
            platform: "manylinux_2_12_x86_64",
            python: None,
            bytes: Some(40_546_229),
            with_gpu: false,
            sha256: "5d6a0d32fdc7ea39917c20065614ae93add6f577d840233237ff08e9a38f58f0",
        },
        Wheel {
            arch: "x86_64",
            name: "nvidia-cuda-runtime-cu12",
            version: "12.9.79",
            platform: "manylinux_2_17_x86_64",
            python: None,
            bytes: None,
            with_gpu: true,
            sha256: "25bba2dfb01d48a9b59ca474a1ac43c6ebf7011f1b0b8cc44f54eb6ac48a96c3",
        },
        Wheel {
            arch: "x86_64",
            name: "nvidia-cudnn-cu12",
            version: "9.28.0.42",
            platform: "manylinux_2_27_x86_64",
            python: None,
            bytes: None,
            with_gpu: true,
            sha256: "9ff58b7f36dacd0a93e89f8f2957b52466889217963701daa15e577317cfa375",
        },
        Wheel {
            arch: "x86_64",
            name: "nvidia-cufft-cu12",
            version: "11.4.1.4",
            platform: "manylinux_2_17_x86_64",
            python: None,
            bytes: None,
            with_gpu: true,
            sha256: "c67884f2a7d276b4b80eb56a79322a95df592ae5e765cf1243693365ccab4e28",
        },
        Wheel {
            arch: "x86_64",
            name: "nvidia-cusolver-cu12",
            version: "11.7.5.82",
            platform: "manylinux_2_27_x86_64",
            python: None,
            bytes: None,
            with_gpu: true,
            sha256: "15da72d1340d29b5b3cf3fd100e3cd53421dde36002eda6ed93811af63c40d88",
        },
        Wheel {
            arch: "x86_64",
            name: "nvidia-cusparse-cu12",
            version: "12.5.10.65",
            platform: "manylinux_2_17_x86_64",
            python: None,
            bytes: None,
            with_gpu: true,
            sha256: "73060ce019ac064a057267c585bf1fd5a353734151f87472ff02b2c5c9984e78",
        },
        Wheel {
            arch: "x86_64",
            name: "nvidia-nccl-cu12",
            version: "2.32.3",
            platform: "manylinux_2_27_x86_64",
            python: None,
            bytes: None,
            with_gpu: true,
            sha256: "bb94b2348e4861d5e8aa00b36c3d12d9bdf9c6369b82cbb723de0b582280a21c",
        },
        Wheel {
            arch: "x86_64",
            name: "nvidia-nvjitlink-cu12",
            version: "12.9.86",
            platform: "manylinux_2_12_x86_64",
            python: None,
            bytes: None,
            with_gpu: true,
            sha256: "e3f1171dbdc83c5932a45f0f4c99180a70de9bd2718c1ab77d14104f6d7147f9",
        },
        Wheel {
            arch: "x86_64",
            name: "nvidia-cuda-nvrtc-cu12",
            version: "12.9.86",
            platform: "manylinux_2_12_x86_64",
            python: None,
            bytes: None,
            with_gpu: true,
            sha256: "210cf05005a447e29214e9ce50851e83fc5f4358df8b453155d5e1918094dcb4",
        },
        Wheel {
            arch: "x86_64",
            name: "nvidia-nvshmem-cu12",
            version: "3.8.0",
            platform: "manylinux_2_17_x86_64",
            python: None,
            bytes: None,
            with_gpu: true,
            sha256: "b2e5760d6158aefe7bb74348d5128bb1b46a7dd1fd4b7b1e6fe55b4b07888f70",
        },
        Wheel {
            arch: "aarch64",
            name: "jax-cuda12-pjrt",
            version: "0.12.0.1",
            platform: "manylinux_2_27_aarch64",
            python: None,
            bytes: None,
            with_gpu: false,
            sha256: "e6aa6c58c5420c1bda22db31a2f6c5c1d0a66cb701eeb731feae44fef197717c",
        },
        Wheel {
            arch: "aarch64",
            name: "nvidia-cublas-cu12",
            version: "12.9.3.13",
            platform: "manylinux_2_27_aarch64",
            python: None,
            bytes: None,
            with_gpu: true,
            sha256: "918a8781956115d34b1db49e0e7b7befba8d101661c4b560ed4d42e0e17bebc3",
        },
        Wheel {
            arch: "aarch64",
            name: "nvidia-cuda-cupti-cu12",
            version: "12.8.90",
            platform: "manylinux_2_17_aarch64",
            python: None,
            bytes: None,
            with_gpu: true,
            sha256: "4412396548808ddfed3f17a467b104ba7751e6b58678a4b840675c56d21cf7ed",
        },
        Wheel {
            arch: "aarch64",
            name: "nvidia-cuda-nvcc-cu12",
            version: "12.9.86",
            platform: "manylinux_2_17_aarch64",
            python: None,
            bytes: None,
            with_gpu: false,
            sha256: "44e1eca4d08926193a558d2434b1bf83d57b4d5743e0c431c0c83d51da1df62b",
        },
        Wheel {
            arch: "aarch64",
            name: "nvidia-cuda-runtime-cu12",
            version: "12.9.79",
            platform: "manylinux_2_17_aarch64",
            python: None,
            bytes: None,
            with_gpu: true,
            sha256: "83469a846206f2a733db0c42e223589ab62fd2fabac4432d2f8802de4bded0a4",
        },
        Wheel {
            arch: "aarch64",
            name: "nvidia-cudnn-cu12",
            version: "9.28.0.42",
            platform: "manylinux_2_27_aarch64",
            python: None,
            bytes: None,
            with_gpu: true,
            sha256: "f88db8fc1a0a5f458e19aa7b08fbe3500aeb9e2bb8dea6293ecbce170364ad72",
        },
        Wheel {
            arch: "aarch64",
            name: "nvidia-cufft-cu12",
            version: "11.4.1.4",
            platform: "manylinux_2_17_aarch64",
            python: None,
            bytes: None,
            with_gpu: true,
            sha256: "1a28c9b12260a1aa7a8fd12f5ebd82d027963d635ba82ff39a1acfa7c4c0fbcf",
        },
        Wheel {
            arch: "aarch64",
            name: "nvidia-cusolver-cu12",
            version: "11.7.5.82",
            platform: "manylinux_2_27_aarch64",
            python: None,
            bytes: None,
            with_gpu: true,
            sha256: "62efa83e4ace59a4c734d052bb72158e888aa7b770e1a5f601682f16fe5b4fd2",
        },
        Wheel {
            arch: "aarch64",
            name: "nvidia-cusparse-cu12",
            version: "12.5.10.65",
            platform: "manylinux_2_17_aarch64",
            python: None,
            bytes: None,
            with_gpu: true,
            sha256: "221c73e7482dd93eda44e65ce567c031c07e2f93f6fa0ecd3ba876a195023e83",
        },
        Wheel {
            arch: "aarch64",
            name: "nvidia-nccl-cu12",
            version: "2.32.3",
            platform: "manylinux_2_27_aarch64",
            python: None,
            bytes: None,
            with_gpu: true,
            sha256: "061af42ae1044816820e16b872075e243d1ac0656f51860fbc8e106c257aa83a",
        },
        Wheel {
            arch: "aarch64",
            name: "nvidia-nvjitlink-cu12",
            version: "12.9.86",
            platform: "manylinux_2_17_aarch64",
            python: None,
            bytes: None,
            with_gpu: true,
            sha256: "994a05ef08ef4b0b299829cde613a424382aff7efb08a7172c1fa616cc3af2ca",
        },
        Wheel {
            arch: "aarch64",
            name: "nvidia-cuda-nvrtc-cu12",
            version: "12.9.86",
            platform: "manylinux_2_17_aarch64",
            python: None,
            bytes: None,
            with_gpu: true,
            sha256: "096d4de6bda726415dfaf3198d4f5c522b8e70139c97feef5cd2ca6d4cd9cead",
        },
        Wheel {
            arch: "aarch64",
            name: "nvidia-nvshmem-cu12",
            version: "3.8.0",
            platform: "manylinux_2_17_aarch64",
            python: None,
            bytes: None,
            with_gpu: true,
            sha256: "313ba41c8aacf03f9524ca83ddb2c62e7b3d82f71af815a35e3739f3d64452b2",
        },
    ],
};

// The wheel exists once per Python version; its libraries do not depend on it.
const TPU: Package = Package {
    kind: PluginKind::Tpu,
    version: "0.0.52",
    plugin: "libtpu/libtpu.so",
    wheels: &[Wheel {
        arch: "x86_64",
        name: "libtpu",
        version: "0.0.52",
        platform: "manylinux_2_31_x86_64",
        python: Some("311"),
        bytes: Some(137_064_406),
        with_gpu: false,
        sha256: "f5e2e596eaea9357fbb5a6755a7a9007c6ab75bfde4a55191b03eff402971140",
    }],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_well_formed_and_unique() {
        let wheels: Vec<&Wheel> = PluginKind::ALL.into_iter().flat_map(|kind| package(kind).wheels).collect();
        let mut hashes: Vec<&str> = wheels.iter().map(|wheel| wheel.sha256).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), wheels.len(), "a hash is listed twice");
        for wheel in wheels {
            assert!(wheel.sha256.len() == 64 && wheel.sha256.bytes().all(|b| b.is_ascii_hexdigit()), "{}", wheel.name);
            assert!(wheel.platform.ends_with(wheel.arch), "{}", wheel.name);
        }
    }
}
