# SPDX-License-Identifier: Apache-2.0
"""The admission webhook: names that a namespace knows become names that nodes offer, and nothing else gets through.

`resources` reads the custom resources, `table` says what each namespace may use, `review` turns a pod into a
patch or a refusal; these three do no I/O.  `watch` keeps the table, `server` answers the API server.
"""
