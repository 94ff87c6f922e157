"""STELLA's selection: scores and draws as ops, native where a library was built."""
