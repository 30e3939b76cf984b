"""The engine that lets little be measured: surrogates propose, measurements decide."""
