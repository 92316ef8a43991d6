//! What of the host's environment a worker sees: the names listed here, nothing else.
//!
//! A list of what may pass, not of what may not: nobody can list every variable that holds a secret.
//! So nothing whose value can be one is on it: no proxy (its address may hold a password), no token,
//! no agent's socket. `PYTHON*` is not on it either, since it changes which code an interpreter
//! runs, and the interpreter of a worker need not be the one those variables were meant for.
//! [`WorkerSpec::inherit_env`](crate::WorkerSpec::inherit_env) adds names,
//! [`WorkerSpec::env`](crate::WorkerSpec::env) sets values. The host's own environment is only read.

/// Names that are passed on if they are set; `*` at the end stands for any rest.
const PASSED_ON: [&str; 31] = [
    // Where programs, libraries and the user's files are.
    "PATH",
    "LD_LIBRARY_PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "TMPDIR",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "HF_HOME",
    // Language and time.
    "LANG",
    "LANGUAGE",
    "LC_*",
    "TZ",
    "TZDIR",
    // Which certificates to trust.
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    // Which devices to use.
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "CUDA_HOME",
    "CUDA_PATH",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ONEAPI_DEVICE_SELECTOR",
    // The group below which workers are limited.
    "SNAKEHOUSE_CGROUP",
];

/// glibc gives freed memory back to the kernel and faults it in again on every 64 KiB call; these
/// make it keep what a call needs. Measured: 2.2 times the bare round trip without, 0.85 with.
pub(crate) const MALLOC: [(&str, &str); 3] = [
    ("MALLOC_TOP_PAD_", "16777216"),
    ("MALLOC_TRIM_THRESHOLD_", "67108864"),
    ("MALLOC_MMAP_THRESHOLD_", "33554432"),
];

/// What libraries ask how many threads of arithmetic they may have. Each worker has one, so that as
/// many workers as processors do not start the square of that.
const THREADS: [&str; 7] = [
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "RAYON_NUM_THREADS",
];

/// So many threads of arithmetic.
pub(crate) fn threads(count: usize) -> impl Iterator<Item = (String, String)> {
    THREADS.into_iter().map(move |name| (name.to_owned(), count.max(1).to_string()))
}

/// The part of this process's environment that is passed on. Values that are not UTF-8 are not.
pub(crate) fn inherited() -> impl Iterator<Item = (String, String)> {
    chosen(&PASSED_ON)
}

/// The variables of this process with these names. Values that are not UTF-8 are left out.
pub(crate) fn chosen<'a>(
    names: &'a [impl AsRef<str>],
) -> impl Iterator<Item = (String, String)> + 'a {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os()
        .filter_map(text)
        .filter(move |(name, _)| names.iter().any(|pattern| matches(pattern.as_ref(), name)))
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_rest_and_only_at_the_end() {
        assert!(matches("LC_*", "LC_ALL") && matches("LC_*", "LC_"));
        assert!(
            !matches("LC_*", "LANG") && !matches("PATH", "PATHEXT") && !matches("PATH", "MYPATH")
        );
        assert!(matches("*", "ANYTHING"));
    }

    /// Words that mark names whose values nobody wants to see in a worker.
    #[test]
    fn nothing_that_may_be_secret_is_passed_on() {
        for word in ["TOKEN", "KEY", "SECRET", "PASS", "CREDENTIAL", "PROXY", "AUTH", "PYTHON"] {
            let found = PASSED_ON.iter().find(|name| name.to_uppercase().contains(word));
            assert_eq!(found, None, "{word}");
        }
    }
}
