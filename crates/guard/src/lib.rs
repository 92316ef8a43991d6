//! Back-off, retry, breaker, limits, permits: the guards around every remote call.
