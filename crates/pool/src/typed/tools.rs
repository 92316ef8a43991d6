//! The macro that reads Python signatures.
//!
//! It lives in a module of its own because it is a little language: what stands in the Python file
//! after `def` is matched token by token, once for the methods and once for the signatures that are
//! checked. The helper macros below it are not for users.

/// Declares Python functions, as they stand in the Python file, as methods of a struct.
///
/// ```no_run
/// use std::time::Duration;
///
/// snakehouse_pool::tools! {
///     /// The functions of `examples/tools/text.py`.
///     pub struct Text {
///         /// Counts words; gives the `most` frequent ones.
///         def word_count(text: str, most: int = 3) -> dict[str, int];
///         def score(answer: str, expected: str) -> float;
///     }
/// }
///
/// # async fn example(pool: &snakehouse_pool::Pool) -> Result<(), Box<dyn std::error::Error>> {
/// let text = Text::bind(pool).await?;
/// let counts = text.word_count("to be or not to be", Some(2)).await?;
/// let score: f64 = text.within(Duration::from_secs(1)).score("a b", "a b c d").await?;
/// # Ok(())
/// # }
/// ```
///
/// The struct has `bind(&Pool)`, which fails with a [`ToolMismatch`](crate::ToolMismatch) if the
/// workers have no such functions; `within(Duration)`, the same with another deadline than the
/// pool's defaults; and a method for each function, which fails as
/// [`Pool::call`](crate::Pool::call) does.
///
/// A parameter with a default is an `Option`: `None` leaves it to Python. Parameters travel by name,
/// so positional-only ones cannot be declared; `*` may stand between others. `async def` is read as
/// `def`. A result of `Iterator[T]` or `AsyncIterator[T]` declares a generator, whose method opens a
/// stream and gives [`Items`](crate::Items).
///
/// | Python | Rust |
/// |---|---|
/// | `None`, `bool`, `int`, `float`, `str` | `()`, `bool`, `i64`, `f64`, `String` |
/// | `bytes`, `datetime`, `date`, `time`, `timedelta`, `ndarray` | `Bytes`, `DateTime`, `Date`, `Time`, `TimeDelta`, `Array` |
/// | `list[T]`, `set[T]`, `dict[K, V]`, `tuple[A, B]` (up to four) | `Vec`, `BTreeSet`, `BTreeMap`, a tuple |
/// | `T \| None` | `Option<T>` |
/// | `Any`, `object`, `list`, `dict`, `tuple`, `set` | [`Value`](crate::Value) |
#[macro_export]
macro_rules! tools {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($body:tt)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        $vis struct $name($crate::Bound);

        impl $name {
            /// Holds the declared functions against those of the pool's workers.
            ///
            /// # Errors
            /// `ToolMismatch` of the first that does not fit.
            pub async fn bind(pool: &$crate::Pool) -> ::core::result::Result<Self, $crate::ToolMismatch> {
                $crate::Bound::new(pool, &$crate::__signatures!([] $($body)*)).await.map(Self)
            }

            /// The same with this deadline for each call or stream, from its beginning.
            #[must_use]
            #[allow(dead_code, reason = "not everybody needs another deadline")]
            pub fn within(&self, duration: ::core::time::Duration) -> Self {
                Self(self.0.within(duration))
            }

            $crate::__methods!($($body)*);
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __methods {
    () => {};
    ($(#[$meta:meta])* $(async)? def $tool:ident (
        $($(*,)? $param:ident : $kind:ident $([$($of:tt)*])? $(| $none:ident)? $(= $default:expr)?),*
        $(,)?
    ) -> $result:ident $([$($result_of:tt)*])? $(| $no_result:ident)? ; $($rest:tt)*) => {
        $(#[$meta])*
        pub async fn $tool(
            &self,
            $($param: $crate::__argument!({$kind $([$($of)*])? $(| $none)?} $(= $default)?)),*
        ) -> ::core::result::Result<
            $crate::__result!($result $([$($result_of)*])? $(| $no_result)?),
            $crate::CallError,
        > {
            let args = $crate::Args::none();
            $(let args = $crate::__pass!(
                args, $param, {$kind $([$($of)*])? $(| $none)?} $(= $default)?
            );)*
            $crate::__call!(self.0, stringify!($tool), args, $result)
        }

        $crate::__methods!($($rest)*);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __signatures {
    ([$($done:expr,)*]) => { [$($done),*] };
    ([$($done:expr,)*] $(#[$meta:meta])* $(async)? def $tool:ident (
        $($(*,)? $param:ident : $kind:ident $([$($of:tt)*])? $(| $none:ident)? $(= $default:expr)?),*
        $(,)?
    ) -> $result:ident $([$($result_of:tt)*])? $(| $no_result:ident)? ; $($rest:tt)*) => {
        $crate::__signatures!([$($done,)* $crate::Signature {
            name: stringify!($tool),
            written: stringify!(
                $tool($($param: $kind $([$($of)*])? $(| $none)? $(= $default)?),*)
                -> $result $([$($result_of)*])? $(| $no_result)?
            ),
            parameters: ::std::vec![$($crate::Parameter {
                name: stringify!($param),
                schema: <$crate::__python!($kind $([$($of)*])? $(| $none)?)
                    as $crate::PythonType>::schema(),
                has_default: $crate::__has_default!($(= $default)?),
            }),*],
            result: <$crate::__item!($result $([$($result_of)*])? $(| $no_result)?)
                as $crate::PythonType>::schema(),
            is_generator: $crate::__is_generator!($result),
        },] $($rest)*)
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __python {
    (None) => { () };
    (bool) => { bool };
    (int) => { i64 };
    (float) => { f64 };
    (str) => { ::std::string::String };
    (bytes) => { $crate::Bytes };
    (datetime) => { $crate::DateTime };
    (date) => { $crate::Date };
    (time) => { $crate::Time };
    (timedelta) => { $crate::TimeDelta };
    (ndarray) => { $crate::Array };
    (Any) => { $crate::Value };
    (object) => { $crate::Value };
    (list) => { $crate::Value };
    (dict) => { $crate::Value };
    (tuple) => { $crate::Value };
    (set) => { $crate::Value };
    (list[$($of:tt)*]) => { ::std::vec::Vec<$crate::__python!($($of)*)> };
    (set[$($of:tt)*]) => { ::std::collections::BTreeSet<$crate::__python!($($of)*)> };
    (dict[$key:ident, $($of:tt)*]) => {
        ::std::collections::BTreeMap<$crate::__python!($key), $crate::__python!($($of)*)>
    };
    (tuple[$($kind:ident $([$($of:tt)*])? $(| $none:ident)?),+ $(,)?]) => {
        ($($crate::__python!($kind $([$($of)*])? $(| $none)?),)+)
    };
    ($kind:ident | None) => { ::core::option::Option<$crate::__python!($kind)> };
    ($kind:ident [$($of:tt)*] | None) => {
        ::core::option::Option<$crate::__python!($kind[$($of)*])>
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __argument {
    ({$($kind:tt)*}) => { impl ::core::convert::Into<$crate::__python!($($kind)*)> };
    ({$($kind:tt)*} = $default:expr) => { ::core::option::Option<$crate::__python!($($kind)*)> };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __pass {
    ($args:ident, $param:ident, {$($kind:tt)*}) => {{
        let value: $crate::__python!($($kind)*) = $param.into();
        $args.kwarg(stringify!($param), $crate::PythonType::into_value(value))
    }};
    ($args:ident, $param:ident, {$($kind:tt)*} = $default:expr) => {
        match $param {
            Some(value) => $args.kwarg(stringify!($param), $crate::PythonType::into_value(value)),
            None => $args,
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __has_default {
    () => {
        false
    };
    (= $default:expr) => {
        true
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __is_generator {
    (Iterator) => {
        true
    };
    (AsyncIterator) => {
        true
    };
    ($result:ident) => {
        false
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __item {
    (Iterator[$($item:tt)*]) => { $crate::__python!($($item)*) };
    (AsyncIterator[$($item:tt)*]) => { $crate::__python!($($item)*) };
    ($($kind:tt)*) => { $crate::__python!($($kind)*) };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __result {
    (Iterator[$($item:tt)*]) => { $crate::Items<$crate::__python!($($item)*)> };
    (AsyncIterator[$($item:tt)*]) => { $crate::Items<$crate::__python!($($item)*)> };
    ($($kind:tt)*) => { $crate::__python!($($kind)*) };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __call {
    ($bound:expr, $tool:expr, $args:ident, Iterator) => {
        $bound.stream($tool, $args).await
    };
    ($bound:expr, $tool:expr, $args:ident, AsyncIterator) => {
        $bound.stream($tool, $args).await
    };
    ($bound:expr, $tool:expr, $args:ident, $result:ident) => {
        $bound.call($tool, $args).await
    };
}
